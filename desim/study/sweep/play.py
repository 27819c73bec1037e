"""What a process does for a sweep: read a point's scenario, play it, keep the scalars."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from desim.api import summary_of
from desim.errors import DeadlockError, SpecError
from desim.spec.dump import dump_scenario
from desim.spec.load import load_scenario
from desim.spec.scenario import Output
from desim.study.scalars import scalars
from desim.study.sweep.journal import Finished

if TYPE_CHECKING:
    from pathlib import Path

    from desim.spec.scenario import Scenario

NO_MEMORY = "this machine has too little memory to play it"
LOST = "its process died while it was played"
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
        return Prepared("", _first_mistake(error))
    except Exception as error:
        return Prepared("", _fault(error))


def key_of(scenario: Scenario) -> str:
    """Return a hash that two resolved scenarios share only if their results are equal."""
    bare = scenario.model_copy(update={"name": _NAME, "output": Output()})
    return hashlib.sha256(dump_scenario(bare).encode()).hexdigest()


def play_point(source: PointSource) -> Finished:
    """Play a point, or say why it cannot be played; never raises."""
    try:
        scenario = load_scenario(source.base, source.overrides).scenario
    except SpecError as error:
        return Finished({}, _first_mistake(error))
    return play(scenario)


def play(scenario: Scenario) -> Finished:
    """Play a scenario and return its scalars, or say why there are none; never raises."""
    collecting = gc.isenabled()
    gc.disable()  # a run makes millions of objects and no cycles to speak of
    try:
        return Finished(scalars(summary_of(scenario)))
    except SpecError as error:
        return Finished({}, _first_mistake(error))
    except DeadlockError as error:
        return Finished({}, str(error).splitlines()[0])
    except MemoryError:
        return Finished({}, NO_MEMORY, again=True)
    except Exception as error:
        return Finished({}, _fault(error))
    finally:
        if collecting:
            gc.enable()
            gc.collect(0)


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


def _first_mistake(error: SpecError) -> str:
    """The first mistake, without its file: rows are the same wherever the study lies."""
    first, *more = error.mistakes
    text = str(replace(first, file="", line=0))
    return f"{text} (and {len(more)} more)" if more else text


def _fault(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"a fault of desim's: {type(error).__name__}: {text}".rstrip(": ")
