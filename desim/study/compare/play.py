"""Variants played in processes: what each sends back, and why one came to nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from desim.analyze.links import measured_window_ps
from desim.api import run
from desim.attempt import LOST, NO_MEMORY
from desim.errors import DeadlockError, Mistake, SpecError
from desim.export.carry import carried
from desim.plan.mesh import build_mesh
from desim.pool import Pool
from desim.record import PS_PER_S
from desim.report.comparison_page import Drawn
from desim.report.timeline import MAX_SPANS, packed_timeline
from desim.spec.scenario import SlowDevice

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from desim.record import Record
    from desim.spec.scenario import Scenario

#: Ranks on the page and in the trace, of all variants together.
_PAGE_RANKS, _TRACE_RANKS = 16, 32
_NO_MEMORY = Mistake("", NO_MEMORY)


@dataclass(frozen=True, slots=True)
class VariantPlay:
    """A scenario to be played; what is drawn of it: ranks, and room for so many spans."""

    scenario: Scenario
    page_ranks: tuple[int, ...] = ()
    trace_ranks: tuple[int, ...] = ()
    most_spans: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a scenario came to: its summary and what is drawn.

    Or why it came to nothing: `mistakes`, or `deadlock` where its program cannot finish.
    """

    summary: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()
    drawn: Drawn | None = None
    record: Record | None = None
    mistakes: tuple[Mistake, ...] = ()
    deadlock: str = ""


def plays_of(scenarios: Sequence[Scenario], *, draw: bool) -> list[VariantPlay]:
    """Return how variants are played: they draw the same ranks in so far as they have them."""
    if not draw:
        return [VariantPlay(scenario) for scenario in scenarios]
    number = len(scenarios)
    page, trace = (
        shown_ranks(scenarios, max(1, most // number)) for most in (_PAGE_RANKS, _TRACE_RANKS)
    )
    return [
        VariantPlay(
            scenario,
            tuple(rank for rank in page if rank < scenario.cluster.devices),
            tuple(rank for rank in trace if rank < scenario.cluster.devices),
            2 * MAX_SPANS // number,
        )
        for scenario in scenarios
    ]


def shown_ranks(scenarios: Sequence[Scenario], most: int) -> list[int]:
    """Return ranks that show what variants do: a rank of every stage of the first, slow devices.

    Where there are more than `most` stages, they are evenly spread.
    """
    mesh = build_mesh(scenarios[0].parallel)
    stage = mesh.coordinate("pp")
    firsts = [int(np.flatnonzero(stage == number)[0]) for number in range(mesh.sizes["pp"])]
    slow = {d.device for one in scenarios for d in one.disturb if isinstance(d, SlowDevice)}
    room = max(1, most - len(slow))
    chosen = np.unique(np.linspace(0, len(firsts) - 1, min(room, len(firsts))).round().astype(int))
    return sorted({firsts[i] for i in chosen.tolist()} | set(sorted(slow)[: most - 1]))


def play_all(
    plays: Sequence[VariantPlay],
    processes: int,
    begin: Callable[[str, float], None],
    done: Callable[[float], None],
) -> list[Outcome]:
    """Play variants in processes; `begin` and `done` are told how far it is."""
    begin(f"playing {len(plays)} variants", float(len(plays)))
    pool: Pool[VariantPlay, Outcome] = Pool(processes, play, _lost, _hungry)
    return pool.map(plays, lambda _: 1.0, done)


def play(variant: VariantPlay) -> Outcome:
    """Play one variant; what is wrong with it is in what is returned."""
    try:
        result = run(variant.scenario)
        drawn, record = None, None
        if variant.page_ranks:
            drawn = _drawn(result.record, variant)
            record = carried(result.record, _classes(result.record, variant.trace_ranks))
    except SpecError as error:
        return Outcome(mistakes=error.mistakes)
    except DeadlockError as error:
        return Outcome(deadlock=str(error))
    except MemoryError:
        return Outcome(mistakes=(_NO_MEMORY,))
    return Outcome(result.summary, result.notes, drawn, record)


def _drawn(record: Record, variant: VariantPlay) -> Drawn:
    begin, finish = measured_window_ps(record)
    packed = packed_timeline(record, _classes(record, variant.page_ranks), variant.most_spans)
    return Drawn(packed, begin / PS_PER_S, (finish - begin) / PS_PER_S)


def _classes(record: Record, ranks: Sequence[int]) -> list[int]:
    """Return the classes of ranks, by stage and rank as they are drawn elsewhere."""
    found = {int(record.details["class_of_rank"][rank]) for rank in ranks}
    classes = record.classes
    return sorted(found, key=lambda i: (classes[i].stage, classes[i].representative))


def _lost(variant: VariantPlay) -> Outcome:
    return Outcome(mistakes=(Mistake("", LOST),))


def _hungry(outcome: Outcome) -> bool:
    return _NO_MEMORY in outcome.mistakes
