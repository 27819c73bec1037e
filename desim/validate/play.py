"""What desim says of each row: rows to scenarios, each distinct scenario played once."""

from __future__ import annotations

import ctypes
import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from desim.api import Prediction, predict, predict_memory
from desim.attempt import LOST, NO_MEMORY, fault, first_mistake, uncollected
from desim.errors import DeadlockError, SpecError
from desim.pool import Pool
from desim.validate import memory_rows
from desim.validate.assumptions import UnscoredError, load_assumptions
from desim.validate.rows import to_scenario

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from desim.spec.scenario import Scenario
    from desim.validate.assumptions import Assumptions
    from desim.validate.measurements import Measurement

_READING = 1.0  # work of a row, in a unit of its own


@dataclass(frozen=True, slots=True)
class Task:
    """A row to be turned into a scenario."""

    cells: dict[str, str]
    assumptions: Path
    of_memory: bool


@dataclass(frozen=True, slots=True)
class Prepared:
    """A row's scenario and a text that only equal scenarios share, or why there is none."""

    scenario: Scenario | None
    key: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """A scenario to be played, or only planned for its memory."""

    scenario: Scenario
    only_memory: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a row's scenario came to, or why it came to nothing."""

    prediction: Prediction | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Played:
    """A row, the scenario it was turned into, and what came of it."""

    row: Measurement
    scenario: Scenario | None
    outcome: Outcome


def play_rows(
    measured: Sequence[Measurement],
    assumptions: Path,
    *,
    of_memory: bool,
    processes: int,
    begin: Callable[[str, float], None],
    done: Callable[[float], None],
) -> list[Played]:
    """Return what desim says of every row, in their order.

    Equal scenarios are played once. `begin` is told what starts and how much work it is, `done`
    how much of it has ended.
    """
    begin("reading rows", len(measured) * _READING)
    tasks = [Task(row.cells, assumptions, of_memory) for row in measured]
    reading: Pool[Task, Prepared] = Pool(processes, prepare, _unread, _never)
    prepared = reading.map(tasks, lambda _: _READING, done)
    jobs = {p.key: Job(p.scenario, of_memory) for p in prepared if p.scenario is not None}
    begin("playing", sum(estimated_work(job) for job in jobs.values()))
    playing: Pool[Job, Outcome] = Pool(processes, play, _lost, _hungry)
    outcomes = playing.map(list(jobs.values()), estimated_work, done)
    by_key = dict(zip(jobs, outcomes, strict=True))
    return [
        Played(row, p.scenario, by_key[p.key] if p.scenario else Outcome(None, p.reason))
        for row, p in zip(measured, prepared, strict=True)
    ]


@lru_cache(maxsize=1)
def _assumed(path: Path) -> Assumptions:
    return load_assumptions(path)


def prepare(task: Task) -> Prepared:
    """Turn a row into a scenario, or say why it cannot be; never raises."""
    convert = memory_rows.to_scenario if task.of_memory else to_scenario
    try:
        scenario = convert(task.cells, _assumed(task.assumptions))
    except UnscoredError as error:
        return Prepared(None, reason=str(error))
    except SpecError as error:
        return Prepared(None, reason=_refused(error))
    except Exception as error:
        return Prepared(None, reason=f"cannot be read: {fault(error)}")
    return Prepared(scenario, _key(scenario))


def _key(scenario: Scenario) -> str:
    """A text that two scenarios share only if they are equal but for their names."""
    nameless = scenario.model_copy(update={"name": "job"})
    return hashlib.sha256(nameless.model_dump_json(by_alias=True).encode()).hexdigest()


def play(job: Job) -> Outcome:
    """Play a scenario, or say why it cannot be played; never raises."""
    outcome = _attempt(job)
    _give_back()
    return outcome


def _attempt(job: Job) -> Outcome:
    with uncollected():
        try:
            return Outcome((predict_memory if job.only_memory else predict)(job.scenario))
        except SpecError as error:
            return Outcome(None, _refused(error))
        except DeadlockError as error:
            return Outcome(None, str(error).splitlines()[0])
        except MemoryError:
            return Outcome(None, NO_MEMORY)
        except Exception as error:
            return Outcome(None, f"cannot be played: {fault(error)}")


def _give_back() -> None:
    """Give memory that a run has freed back to the system, which glibc does not by itself."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):  # another C library
        return
    trim(0)


def estimated_work(job: Job) -> float:
    """Return the number of passes of layers that are played, which a run's time follows."""
    workload, parallel = job.scenario.workload, job.scenario.parallel
    data = 1 if parallel.data == "auto" else parallel.data
    micro_batches = max(workload.global_batch / (workload.micro_batch * data), 1.0)
    layers = getattr(workload.model, "layers", 1)
    return float(layers + 1) * (1.0 if job.only_memory else micro_batches)


def _refused(error: SpecError) -> str:
    return f"desim refuses it: {first_mistake(error)}"


def _unread(task: Task) -> Prepared:
    return Prepared(None, reason="cannot be read: its process died")


def _never(prepared: Prepared) -> bool:
    return False


def _lost(job: Job) -> Outcome:
    return Outcome(None, LOST)


def _hungry(outcome: Outcome) -> bool:
    return outcome.reason == NO_MEMORY
