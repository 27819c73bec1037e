"""What a process does for a sweep: read a point's scenario, play it, keep the scalars."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from desim.api import summary_of
from desim.attempt import LOST, NO_MEMORY, fault, first_mistake, uncollected
from desim.errors import DeadlockError, SpecError
from desim.plan.load import load_scenario
from desim.spec.dump import dump_scenario
from desim.spec.scenario import Output
from desim.study.scalars import scalars
from desim.study.sweep.journal import Finished

if TYPE_CHECKING:
    from pathlib import Path

    from desim.spec.scenario import Scenario

#: What stands for the name in the key of a scenario: names change nothing.
_NAME = "point"


@dataclass(frozen=True, slots=True)
class PointSource:
    """Where the scenario of a point comes from: the base and what is put over it."""

    base: Path | Mapping[str, Any]
    overrides: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A text that only equal scenarios share, or why a point is none."""

    key: str
    error: str = ""


def prepare(source: PointSource) -> Prepared:
    """Read a point's scenario and return its key, or say why it is refused; never raises."""
    try:
        return Prepared(key_of(load_scenario(source.base, source.overrides).scenario))
    except SpecError as error:
        return Prepared("", _refused(error))
    except Exception as error:
        return Prepared("", _ours(error))


def key_of(scenario: Scenario) -> str:
    """Return a hash that two resolved scenarios share only if their results are equal."""
    bare = scenario.model_copy(update={"name": _NAME, "output": Output()})
    return hashlib.sha256(dump_scenario(bare).encode()).hexdigest()


def play_point(source: PointSource) -> Finished:
    """Play a point, or say why it cannot be played; never raises."""
    try:
        scenario = load_scenario(source.base, source.overrides).scenario
    except SpecError as error:
        return Finished({}, _refused(error))
    return play(scenario)


def play(scenario: Scenario) -> Finished:
    """Play a scenario and return its scalars, or say why there are none; never raises."""
    with uncollected():
        try:
            return Finished(scalars(summary_of(scenario)))
        except SpecError as error:
            return Finished({}, _refused(error))
        except DeadlockError as error:
            return Finished({}, str(error).splitlines()[0])
        except MemoryError:
            return Finished({}, NO_MEMORY, again=True)
        except Exception as error:
            return Finished({}, _ours(error))


def unread(source: PointSource) -> Prepared:
    """What stands for a point whose process died while it was read."""
    return Prepared("", "its process died while it was read")


def never(_: Prepared) -> bool:
    """Reading a point never takes all memory."""
    return False


def lost(_: object) -> Finished:
    """What stands for a point that killed its process, also with the machine to itself."""
    return Finished({}, LOST, again=True)


def hungry(finished: Finished) -> bool:
    """Whether a point ran out of memory, which it may have where it is alone."""
    return finished.error == NO_MEMORY


def _refused(error: SpecError) -> str:
    """The first mistake, without its file: rows are the same wherever the study lies."""
    return first_mistake(SpecError([replace(m, file="", line=0) for m in error.mistakes]))


def _ours(error: Exception) -> str:
    return f"a fault of desim's: {fault(error)}"
