"""Lanes that spans imply: the passes that a rank plays, and what its host does.

A profiler draws both: the ranges that a framework marks around its passes and layers, and the
thread that launches kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from desim.record import LANES, PHASES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from desim.record import Causes, Spans

    Integers = NDArray[np.int64]

_COMPUTE = LANES.index("compute")
_RECOMPUTE, _BACKWARD = PHASES.index("recompute"), PHASES.index("backward")


@dataclass(frozen=True, slots=True)
class Passes:
    """Passes of one rank in order: from the first kernel's start to the last kernel's end.

    `phase` indexes `PHASES`; recomputation belongs to the backward pass. `micro_batch` is -1
    outside of the schedule. `chunk` numbers the parts of the model that the rank holds.
    """

    start_ps: Integers
    end_ps: Integers
    phase: Integers
    micro_batch: Integers
    chunk: Integers


@dataclass(frozen=True, slots=True)
class Layers:
    """Layers within the passes of one rank, in order."""

    start_ps: Integers
    end_ps: Integers
    layer: Integers


@dataclass(frozen=True, slots=True)
class Host:
    """What the host of one rank does, in order: runs of launches and waits, which touch.

    `launches` is 0 for a wait; `awaited` is the span whose end released the host (-1: unknown).
    """

    start_ps: Integers
    end_ps: Integers
    launches: Integers
    awaited: Integers


def chunk_numbers(layer: NDArray[np.signedinteger]) -> Integers:
    """Return for each entry which of a rank's runs of consecutive layers it is in, from 0.

    A layer of -1 (none) counts as part of the first.
    """
    held = np.unique(layer[layer >= 0])
    begins = held[1:][np.diff(held) > 1]
    return np.searchsorted(begins, layer, side="right")


def passes_of(spans: Spans) -> tuple[Passes, Layers]:
    """Return the passes of a rank and the layers within them."""
    kernels = np.flatnonzero(spans.lane == _COMPUTE)
    phase = spans.phase[kernels].astype(np.int64)
    phase[phase == _RECOMPUTE] = _BACKWARD
    micro_batch = spans.micro_batch[kernels].astype(np.int64)
    layer = spans.layer[kernels].astype(np.int64)
    chunk = chunk_numbers(layer)
    start, end = spans.start_ps[kernels], spans.end_ps[kernels]
    first, last = _runs(phase, micro_batch, chunk)
    passes = Passes(start[first], end[last], phase[first], micro_batch[first], chunk[first])
    first, last = _runs(phase, micro_batch, chunk, layer)
    inside = layer[first] >= 0
    first, last = first[inside], last[inside]
    return passes, Layers(start[first], end[last], layer[first])


def host_of(spans: Spans, causes: Causes) -> Host:
    """Return what the host of a rank does from its first launch to its last.

    Launches that follow each other with no wait are one run. Where the first of them followed
    others that the window leaves out, the run begins with its own first launch.
    """
    if not len(spans):
        none = np.zeros(0, np.int64)
        return Host(none, none, none, none)
    first, last = _runs(causes.released_ps)
    end = spans.issue_ps[last]
    start = np.maximum(causes.released_ps[first], np.append(0, end[:-1]))
    start[0] = max(start[0], spans.issue_ps[0] - _shortest(np.diff(spans.issue_ps)))
    waits = np.flatnonzero(start[1:] > end[:-1])
    both = np.append(start, end[:-1][waits])
    order = np.argsort(both, kind="stable")
    zeros, ones = np.zeros(len(waits), np.int64), np.full(len(first), -1)
    return Host(
        both[order],
        np.append(end, start[1:][waits])[order],
        np.append(last - first + 1, zeros)[order],
        np.append(ones, causes.releaser[first[1:][waits]])[order],
    )


def _shortest(gaps: Integers) -> int:
    """Return the smallest gap that is none; 0 where there is none."""
    some = gaps[gaps > 0]
    return int(some.min()) if len(some) else 0


def _runs(*columns: NDArray[np.signedinteger]) -> tuple[Integers, Integers]:
    """Return the first and the last row of every run of rows that are alike in all columns."""
    size = len(columns[0])
    if not size:
        none = np.zeros(0, np.int64)
        return none, none
    changes = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    first = np.flatnonzero(np.append(True, changes))
    return first, np.append(first[1:], size) - 1
