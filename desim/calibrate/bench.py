"""Measuring: cases in, rows out, whatever runs the kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from desim.kernels.table_file import MeasuredRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from desim.calibrate.cases import Case
    from desim.calibrate.journal import Journal

#: A kernel shorter than this is below the resolution of the events that time it.
SHORTEST_S = 1e-7


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a machine says of its accelerators."""

    name: str
    sms: int
    memory_bytes: float
    count: int


class Bench(Protocol):
    """A machine that runs kernels."""

    software: str
    """Versions, as a row states them."""

    def times_s(self, case: Case) -> Sequence[float]:
        """Return the times of a case's runs; raises NotPossible where it cannot run here."""
        ...


class NotPossible(Exception):  # noqa: N818 -- an answer, not a fault
    """A case that this machine or this software has no kernel for."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How many cases were measured now and before, and why others were not."""

    measured: int
    known: int
    left_out: dict[str, int]
    """Reason -> cases."""


def measure(
    cases: Iterable[Case],
    journal: Journal,
    bench: Bench,
    device: str,
    begin: Callable[[str, float], None],
    done: Callable[[float], None],
) -> Outcome:
    """Measure what the journal does not hold, case by case; interrupting loses one case.

    `begin` and `done` are those of a bar.
    """
    listed = list({case.key: case for case in cases}.values())
    waiting = [case for case in listed if not journal.has(case.key)]
    begin("measuring", float(len(waiting)))
    left_out: dict[str, int] = {}
    for case in waiting:
        try:
            journal.add(summary_row(case, bench.times_s(case), device, bench.software))
        except NotPossible as reason:
            left_out[str(reason)] = left_out.get(str(reason), 0) + 1
        done(1.0)
    missing = sum(left_out.values())
    return Outcome(len(waiting) - missing, len(listed) - len(waiting), left_out)


def summary_row(case: Case, times_s: Sequence[float], device: str, software: str) -> MeasuredRow:
    """Return the row of a case from the times of its runs; raises NotPossible for none."""
    times = np.array(times_s, dtype=float)
    times = times[np.isfinite(times) & (times > SHORTEST_S)]
    if not len(times):
        raise NotPossible("no run took a time that can be measured")
    low, middle, high = np.quantile(times, [0.1, 0.5, 0.9]).tolist()
    return MeasuredRow(
        op=case.op,
        seconds=middle,
        backend=case.backend,
        spread=(high - low) / middle,
        runs=len(times),
        device=device,
        software=software,
    )
