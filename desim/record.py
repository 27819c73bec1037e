"""The record of a run: everything that was observed, in integer picoseconds.

The engine writes it; analyzers, exporters and reports read it and change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

#: Lanes of a rank, in the order in which exposed communication is attributed. A message between
#: pipeline stages has a lane per direction and pass, since NCCL runs them beside each other; chunks
#: that run from the last stage back to the first (`zb_v`) have `return` lanes.
LANES = (
    "compute",
    "tp",
    "cp",
    "ep",
    "dp",
    "pp_send_forward",
    "pp_recv_forward",
    "pp_send_backward",
    "pp_recv_backward",
    "pp_send_forward_return",
    "pp_recv_forward_return",
    "pp_send_backward_return",
    "pp_recv_backward_return",
    "h2d",
    "d2h",
)
#: Of each lane, the group of ranks that it serves (`pp` of every message); a lane of host copies is
#: its own.
GROUP_OF_LANE = {lane: "pp" if lane.startswith("pp_") else lane for lane in LANES}
#: What a task belongs to.
PHASES = (
    "forward",
    "recompute",
    "backward",
    "gradients",
    "optimizer",
    "parameters",
    "weight gradient",
)
PS_PER_S = 1_000_000_000_000


@dataclass(frozen=True, slots=True)
class Spans:
    """The tasks of one rank in the measured window, as columns of equal length, by issue order.

    `ready_ps`: the lane was free, the dependencies were done and the host had issued the task (a
    collective has arrived at its rendezvous). `start_ps`: it ran (a collective: its last member had
    arrived and it began to transfer). `alone_ps`: how long it takes with nothing beside it.
    `issue_ps`: the host had issued it. `micro_batch`, `layer` are -1 where they do not apply.
    `size_bytes` is 0 for compute. `group` indexes `Record.groups`, -1 for compute.
    """

    lane: NDArray[np.int8]
    name: NDArray[np.int32]
    kind: NDArray[np.int16]
    phase: NDArray[np.int8]
    micro_batch: NDArray[np.int32]
    layer: NDArray[np.int32]
    group: NDArray[np.int32]
    size_bytes: NDArray[np.float64]
    issue_ps: NDArray[np.int64]
    ready_ps: NDArray[np.int64]
    start_ps: NDArray[np.int64]
    end_ps: NDArray[np.int64]
    alone_ps: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.lane)


@dataclass(frozen=True, slots=True)
class Causes:
    """What the spans of one rank class had to wait for, in the order of `Spans`.

    `before` is the span before on the same lane (-1: none). The spans that span i waited for on
    other lanes are `waited[first[i] : first[i + 1]]`. The host issued span i with no wait since
    `released_ps[i]`, when `releaser[i]` ended (-1: it never waited).
    """

    before: NDArray[np.int64]
    first: NDArray[np.int64]
    waited: NDArray[np.int64]
    released_ps: NDArray[np.int64]
    releaser: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RankClass:
    """Ranks that behave alike, played by one representative."""

    representative: int
    count: int
    stage: int
    coordinate: dict[str, int]
    window_ps: tuple[int, int]
    """Start and end of the measured step on the representative."""


@dataclass(frozen=True, slots=True)
class LinkClass:
    """Links that are loaded alike: `rate_bytes_per_s[i]` holds from `time_ps[i]` to the next."""

    name: str
    kind: str
    count: int
    capacity_bytes_per_s: float
    time_ps: NDArray[np.int64]
    rate_bytes_per_s: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory ledger of one rank class, in issue order.

    `by_owner` has a row per owner and a column per sample; `time_ps` says when the device reached
    the sample's task. `peak_bytes` is the largest sum, at sample `peak_index`; `reserved_bytes` is
    what the caching allocator has taken for it, `outside_bytes` what driver and NCCL take beside.
    """

    owners: tuple[str, ...]
    time_ps: NDArray[np.int64]
    by_owner: NDArray[np.float64]
    peak_bytes: float
    peak_index: int
    peak_task: str
    reserved_bytes: float = 0.0
    outside_bytes: float = 0.0

    @property
    def needed_bytes(self) -> float:
        """Bytes that the device must have."""
        return max(self.reserved_bytes, self.peak_bytes) + self.outside_bytes


@dataclass(frozen=True, slots=True)
class Flow:
    """A message between two played ranks: from a span of one class to a span of another."""

    source_class: int
    source_span: int
    target_class: int
    target_span: int


@dataclass(frozen=True, slots=True)
class Record:
    """Everything that a run observed.

    `spans_of(c)` expands the spans of rank class `c` (compute tasks of a run of kernels are stored
    together and expanded on demand; call it once per class and keep the result as needed).
    `causes_of(c)` says what each of them waited for.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    groups: tuple[str, ...]
    group_members: tuple[tuple[int, ...], ...]
    """Rank classes that meet in each group."""
    classes: tuple[RankClass, ...]
    spans_of: Callable[[int], Spans]
    causes_of: Callable[[int], Causes]
    links: tuple[LinkClass, ...]
    memory: tuple[Memory, ...]
    flows: tuple[Flow, ...]
    step_time_ps: int
    num_steps: int
    num_tasks: int
    num_events: int
    simulate_wall_s: float
    details: dict[str, Any] = field(default_factory=dict)
