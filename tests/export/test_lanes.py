"""What the host does and which pass a rank is in follow from its spans."""

from __future__ import annotations

from typing import Any

import numpy as np

from desim.export.lanes import chunk_numbers, host_of, passes_of
from desim.record import LANES, PHASES, Causes, Spans
from tests.records import US, make_spans


def _row(
    lane: str, phase: str, issue: int, start: int, end: int, mb: int = -1, layer: int = -1
) -> tuple[Any, ...]:
    return (
        LANES.index(lane), 0, 0, PHASES.index(phase), mb, layer, -1, 0.0,
        issue * US, start * US, start * US, end * US, (end - start) * US,
    )  # fmt: skip


def _causes(released_us: list[int], releaser: list[int]) -> Causes:
    size = len(released_us)
    none = np.full(size, -1, np.int64)
    released = np.array(released_us, np.int64) * US
    return Causes(none, np.zeros(size + 1, np.int64), none[:0], released, np.array(releaser))


def _kernels(issue_us: list[int]) -> Spans:
    return make_spans([_row("compute", "forward", at, at, at + 1) for at in issue_us])


def test_the_host_launches_and_waits() -> None:
    """Runs of launches and waits touch, from the first launch to the last."""
    host = host_of(
        _kernels([6, 12, 18, 106, 112]), _causes([0, 0, 0, 100, 100], [-1, -1, -1, 1, 1])
    )
    assert (host.start_ps // US).tolist() == [0, 18, 100]
    assert (host.end_ps // US).tolist() == [18, 100, 112]
    assert host.launches.tolist() == [3, 0, 2]
    assert host.awaited.tolist() == [-1, 1, -1]


def test_launches_before_the_window_are_left_out() -> None:
    """Where the host was last released long before, its run begins with its own first launch."""
    host = host_of(_kernels([1006, 1012, 1018]), _causes([2, 2, 2], [-1, -1, -1]))
    assert (host.start_ps // US).tolist() == [1000]
    assert host.launches.tolist() == [3]


def test_a_host_with_one_task_and_with_none() -> None:
    """A single launch has no pace to measure; nothing gives nothing."""
    assert (host_of(_kernels([6]), _causes([0], [-1])).end_ps // US).tolist() == [6]
    assert len(host_of(_kernels([]), _causes([], [])).start_ps) == 0


def test_passes_hold_layers() -> None:
    """Recomputation is part of the backward pass; other lanes do not end a pass."""
    spans = make_spans(
        [
            _row("compute", "forward", 0, 0, 10, mb=0, layer=1),
            _row("tp", "forward", 0, 10, 12, mb=0, layer=2),
            _row("compute", "forward", 0, 12, 20, mb=0, layer=2),
            _row("compute", "recompute", 0, 20, 25, mb=0, layer=2),
            _row("compute", "backward", 0, 25, 40, mb=0, layer=2),
            _row("compute", "backward", 0, 40, 50, mb=0, layer=1),
            _row("compute", "optimizer", 0, 60, 70),
        ]
    )
    passes, layers = passes_of(spans)
    assert [PHASES[phase] for phase in passes.phase.tolist()] == [
        "forward",
        "backward",
        "optimizer",
    ]
    assert (passes.start_ps // US).tolist() == [0, 20, 60]
    assert (passes.end_ps // US).tolist() == [20, 50, 70]
    assert passes.micro_batch.tolist() == [0, 0, -1]
    assert layers.layer.tolist() == [1, 2, 2, 1]
    assert (layers.end_ps // US).tolist() == [10, 20, 40, 50]


def test_chunks_are_runs_of_layers() -> None:
    """A rank of an interleaved pipeline holds several; no layer counts as the first chunk."""
    layer = np.array([-1, 1, 2, 9, 10, 20, 1], np.int32)
    assert chunk_numbers(layer).tolist() == [0, 0, 0, 1, 1, 2, 0]
