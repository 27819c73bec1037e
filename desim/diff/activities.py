"""What a GPU did in a step: seconds by kind of kernel and by collective, overlap and idle time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

K = TypeVar("K")
NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Activity:
    """One kernel or copy on the GPU; times in nanoseconds.

    `kind` is a kind of kernel or the name of a collective; `group_size` counts the ranks of a
    collective (0: not said).
    """

    name: str
    kind: str
    communicates: bool
    group_size: int
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Entry:
    """Seconds and number of the activities of one kind in a mean step."""

    seconds: float
    count: float


@dataclass(frozen=True, slots=True)
class Steps:
    """The mean step of one rank.

    `step_s` is its length, `computing_s` the time in which any kernel computes, `exposed_s` that in
    which nothing but communication runs, `idle_s` that in which nothing runs. `kernels` is by kind,
    `collectives` by name and number of ranks; `unknown` by name what no pattern recognised.
    """

    step_s: float
    computing_s: float
    exposed_s: float
    idle_s: float
    kernels: Mapping[str, Entry]
    collectives: Mapping[tuple[str, int], Entry]
    unknown: Mapping[str, Entry]


def summarize(activities: Iterable[Activity], steps: int, step_s: float, unknown: str) -> Steps:
    """Sum up the activities of `steps` steps of `step_s` seconds each."""
    held = list(activities)
    computing = [one for one in held if not one.communicates]
    busy_s = union_ns(held) / NS_PER_S / steps
    computing_s = union_ns(computing) / NS_PER_S / steps
    return Steps(
        step_s=step_s,
        computing_s=computing_s,
        exposed_s=busy_s - computing_s,
        idle_s=max(step_s - busy_s, 0.0),
        kernels=_entries(((one.kind, one) for one in computing), steps),
        collectives=_entries(
            (((one.kind, one.group_size), one) for one in held if one.communicates), steps
        ),
        unknown=_entries(((one.name, one) for one in computing if one.kind == unknown), steps),
    )


def union_ns(activities: Iterable[Activity]) -> int:
    """Return the nanoseconds in which at least one of the activities runs."""
    spans = np.array([(one.start_ns, one.end_ns) for one in activities], dtype=np.int64)
    if not len(spans):
        return 0
    spans = spans[np.argsort(spans[:, 0], kind="stable")]
    start, end = spans[:, 0], spans[:, 1]
    until: NDArray[np.int64] = np.maximum.accumulate(end)
    # What an activity adds begins where everything before it has ended.
    begin = np.concatenate([start[:1], np.maximum(start[1:], until[:-1])])
    return int(np.maximum(end - begin, 0).sum())


def _entries(keyed: Iterable[tuple[K, Activity]], steps: int) -> dict[K, Entry]:
    sums: dict[K, list[int]] = {}
    for key, one in keyed:
        total = sums.setdefault(key, [0, 0])
        total[0] += one.end_ns - one.start_ns
        total[1] += 1
    return {key: Entry(ns / NS_PER_S / steps, n / steps) for key, (ns, n) in sums.items()}
