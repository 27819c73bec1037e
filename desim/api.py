"""The Python interface: load a scenario, run it, look at the result."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from desim.analyze.fit import savings
from desim.analyze.memory import overflow_message, stage_peaks
from desim.analyze.metrics import summarize
from desim.engine.simulate import measure_folded, measure_step_ps, simulate, simulate_briefly
from desim.plan.build import build_plan, build_programs, make_context
from desim.plan.limits import require_countable
from desim.plan.load import load_scenario
from desim.plan.reserve import outside_bytes, reserved_bytes
from desim.record import PS_PER_S
from desim.spec.documents import are_drawn
from desim.spec.dump import dump_scenario
from desim.spec.scenario import Jitter, Scenario

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pandas as pd

    from desim.engine.play import Player
    from desim.plan.build import Plan
    from desim.plan.context import Context
    from desim.plan.ledger import Ledger
    from desim.plan.program import Program
    from desim.record import Record

#: Micro-batches that are kept: most pipelines settle soon. Where the pace will do and is not steady
#: by then, more are tried.
_KEPT_REPEATS, _MORE_KEPT_REPEATS = 8, 40


def load(source: str | Path | Mapping[str, Any], overrides: str | Sequence[str] = ()) -> Scenario:
    """Load a scenario from a YAML file or mapping, with `path=value` overrides.

    Raises SpecError, which lists every mistake with its file, line and path.
    """
    return load_scenario(source, [overrides] if isinstance(overrides, str) else overrides).scenario


def run(
    scenario: Scenario | str | Path | Mapping[str, Any],
    *,
    watch: Callable[[Player], None] | None = None,
) -> Result:
    """Play a scenario and return what was observed.

    `watch` is called with the player before it starts, for progress to be read from another thread.
    Raises SpecError for a scenario that cannot be run and DeadlockError for a program that cannot
    finish.
    """
    notes: tuple[str, ...] = ()
    if not isinstance(scenario, Scenario):
        loaded = load_scenario(scenario)
        scenario, notes = loaded.scenario, loaded.notes
    plan, record, summary = _observed(scenario, lambda plan: simulate(plan, watch))
    return Result(scenario, record, summary, (*notes, *plan.notes))


def summary_of(scenario: Scenario) -> dict[str, Any]:
    """Return the summary of a scenario's run without what only its timeline and page need.

    It is `run(scenario).summary` but for what was spent on it (`events`, `simulate_wall_s`).
    Raises as `run` does.
    """
    return _observed(scenario, simulate_briefly)[2]


def _observed(
    scenario: Scenario, play: Callable[[Plan], Record]
) -> tuple[Plan, Record, dict[str, Any]]:
    """Plan a scenario, play it, and summarize what was observed."""
    plan = build_plan(scenario)
    require_countable(plan)
    record = play(plan)
    if scenario.disturb or are_drawn(scenario):
        record.details["undisturbed"] = _undisturbed(scenario)
    summary = summarize(plan, record)
    warnings = _memory_warnings(scenario, record, summary)
    if warnings:
        summary["warnings"] = warnings
    return plan, record, summary


@dataclass(frozen=True, slots=True)
class Prediction:
    """What is compared with measurements: step time, and peak memory of the fullest rank."""

    step_time_s: float | None
    """None where the scenario was only planned."""
    allocated_bytes: float
    reserved_bytes: float
    """What the caching allocator takes for it."""
    device_bytes: float
    """That, with what the driver and NCCL take beside it: what `nvidia-smi` shows."""


def predict(scenario: Scenario) -> Prediction:
    """Return a scenario's step time and peak memory: what `run` finds, at the least cost.

    Micro-batches that repeat are left out as `run.fold_time` of the scenario allows; only where it
    is `pace` is the step time another, by some parts in 10,000. No record is made, so that spans,
    links and memory over time cannot be asked for. Raises as `run` does.
    """
    tried = -1
    for kept in _kept_repeats(scenario):
        plan = build_plan(scenario, kept)
        require_countable(plan)
        left_out = plan.programs[0].left_out
        if left_out == tried:
            continue
        tried = left_out
        step_ps = measure_folded(plan) if left_out else measure_step_ps(plan)
        if step_ps is not None:
            peaks = _peak_bytes(plan.context, plan.programs, plan.ledgers)
            return Prediction(step_ps / PS_PER_S, *peaks)
    raise AssertionError("a whole plan has a step time")


def _kept_repeats(scenario: Scenario) -> tuple[int | None, ...]:
    """How many of the micro-batches that repeat are planned, until they are seen to; None: all."""
    fold_time = scenario.run.fold_time
    if fold_time is False or any(isinstance(d, Jitter) for d in scenario.disturb):
        return (None,)
    if fold_time == "pace":
        return (_KEPT_REPEATS, _MORE_KEPT_REPEATS, None)
    return (_KEPT_REPEATS, None)


def predict_memory(scenario: Scenario) -> Prediction:
    """Return a scenario's peak memory, which needs no clock. Raises as `run` does."""
    context = make_context(scenario)
    return Prediction(None, *_peak_bytes(context, *build_programs(context)))


def _peak_bytes(
    context: Context, programs: Sequence[Program], ledgers: Sequence[Ledger]
) -> tuple[float, float, float]:
    """Return the largest peak of allocated bytes, reserve, and reserve with what is outside."""
    allocated = max(ledger.peak_bytes for ledger in ledgers)
    reserved = [reserved_bytes(ledger) for ledger in ledgers]
    outside = [outside_bytes(context, program) for program in programs]
    return allocated, max(reserved), max(a + b for a, b in zip(reserved, outside, strict=True))


def _undisturbed(scenario: Scenario) -> Record:
    """The record of the same job without its disturbances, which tells waiting from bubbles.

    Documents that differ from rank to rank are one: every micro-batch has those expected.
    """
    calm = scenario.run.model_copy(update={"fold": "auto"})
    workload = scenario.workload
    if workload.documents is not None:
        even = workload.documents.model_copy(update={"vary": "none"})
        workload = workload.model_copy(update={"documents": even})
    update = {"disturb": (), "run": calm, "workload": workload}
    return simulate(build_plan(scenario.model_copy(update=update)))


def _memory_warnings(scenario: Scenario, record: Record, summary: dict[str, Any]) -> list[str]:
    """Say of the fullest stage what does not fit, whose it is and what would fit."""
    if summary["fits"]:
        return []
    worst = max(stage_peaks(record), key=lambda peak: peak.needed_bytes)
    capacity = scenario.cluster.system.device.memory_bytes
    return ["out of memory: " + overflow_message(worst, capacity, savings(scenario, worst.stage))]


@dataclass(frozen=True)
class Result:
    """A finished run.

    `summary` holds the numbers of summary.json, `record` all spans, counters and messages, `notes`
    what the user should know about the scenario.
    """

    scenario: Scenario
    record: Record = field(repr=False)
    summary: dict[str, Any]
    notes: tuple[str, ...] = ()

    @cached_property
    def spans(self) -> pd.DataFrame:
        """Every task of every played rank, a row each, times in seconds."""
        from desim.export.frames import spans_frame

        return spans_frame(self.record)

    @cached_property
    def memory(self) -> pd.DataFrame:
        """Bytes by owner over time on every played rank (columns rank, stage, time_s, owners)."""
        from desim.export.frames import memory_frame

        return memory_frame(self.record)

    def __str__(self) -> str:
        """Return the summary as the command line prints it."""
        from desim.report.summary import render

        return render(self.summary, self.record, self.notes)

    def write(self, folder: str | Path, *, trace: bool = True, report: bool = True) -> list[Path]:
        """Write the results into `folder` and return the files' paths.

        Each file is written aside and renamed, so that none is ever half there; files that desim
        did not write stay. `trace` covers the timeline (trace.json.gz, record.parquet), `report`
        the page.
        """
        from desim.report.results import write_results

        resolved = dump_scenario(self.scenario)
        return write_results(
            Path(folder), self.record, self.summary, resolved, trace=trace, report=report
        )

    def write_kineto(self, folder: str | Path) -> list[Path]:
        """Write one trace per rank class in the form of PyTorch's profiler (Kineto)."""
        from desim.export.kineto import write_kineto

        return write_kineto(self.record, folder)
