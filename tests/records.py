"""A small consistent record: a pipeline of stages with tp, dp and pp lanes, built by hand.

Exporters and analyzers are developed against it; no simulation is involved.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from desim.record import LANES, PHASES, Causes, Flow, LinkClass, Memory, RankClass, Record, Spans

NAMES = (
    "qkv",
    "attention",
    "proj",
    "mlp",
    "norm",
    "tp all-gather",
    "send",
    "recv",
    "grads",
    "adam",
)
KINDS = ("gemm", "attention", "norm", "all_gather", "send", "recv", "reduce_scatter", "optimizer")
GROUPS = ("tp0", "pp0-1", "dp0", "world")
KERNELS = (
    ("norm", "norm", 20),
    ("qkv", "gemm", 90),
    ("attention", "attention", 110),
    ("proj", "gemm", 60),
)
US = 1_000_000
_COLUMNS = (
    "lane", "name", "kind", "phase", "micro_batch", "layer", "group", "size_bytes",
    "issue_ps", "ready_ps", "start_ps", "end_ps", "alone_ps",
)  # fmt: skip
_TYPES = (
    np.int8, np.int32, np.int16, np.int8, np.int32, np.int32, np.int32, np.float64,
    np.int64, np.int64, np.int64, np.int64, np.int64,
)  # fmt: skip


def make_spans(rows: list[tuple[Any, ...]]) -> Spans:
    """Return spans from rows in the order of the columns of `Spans`."""
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(_COLUMNS)
    typed = zip(_COLUMNS, columns, _TYPES, strict=True)
    return Spans(**{name: np.array(column, dtype) for name, column, dtype in typed})


@dataclass
class _Rank:
    """One stage while it is being played: its rows, and when its lanes are free."""

    stage: int
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    compute_ps: int = 0
    send_ps: dict[str, int] = field(default_factory=dict)
    recv_ps: dict[str, int] = field(default_factory=dict)

    def add(
        self, lane: str, name: str, kind: str, phase: str, ready: int, start: int, end: int,
        mb: int = -1, layer: int = -1, group: int = -1, size: float = 0.0, stretch: int = 0,
    ) -> int:  # fmt: skip
        """Append one span and return its index."""
        self.rows.append((
            LANES.index(lane), NAMES.index(name), KINDS.index(kind), PHASES.index(phase), mb, layer,
            group, size, max(ready - 5 * US, 0), ready, start, end, end - start - stretch,
        ))  # fmt: skip
        return len(self.rows) - 1

    def run_pass(self, phase: str, mb: int, layers: int) -> None:
        """Kernels of every layer, each layer after an exposed all-gather over tp."""
        factor = 1 if phase == "forward" else 2
        for layer in range(layers):
            begin = self.compute_ps
            at = begin + 30 * US
            self.add(
                "tp", "tp all-gather", "all_gather", phase, begin, begin, at, mb, layer, 0, 64e6
            )
            for name, kind, us in KERNELS:
                stretch = 2 * US if kind == "gemm" and phase == "backward" else 0
                end = at + us * US * factor + stretch
                self.add("compute", name, kind, phase, at, at, end, mb, layer, stretch=stretch)
                at = end
            self.compute_ps = at


def one_f_one_b(stage: int, stages: int, micro_batches: int) -> list[tuple[str, int]]:
    """Return the passes of a stage in 1F1B order."""
    warm = min(stages - stage - 1, micro_batches)
    order = [("forward", mb) for mb in range(warm)]
    for mb in range(micro_batches - warm):
        order += [("forward", warm + mb), ("backward", mb)]
    return order + [("backward", mb) for mb in range(micro_batches - warm, micro_batches)]


def make_record(
    stages: int = 2, micro_batches: int = 4, layers: int = 3, replicas: int = 4
) -> Record:
    """Return the record of one step of a 1F1B pipeline with one rank class per stage."""
    ranks = [_Rank(stage) for stage in range(stages)]
    sent: dict[tuple[str, int, int], tuple[int, int]] = {}
    flows: list[Flow] = []
    waiting = [one_f_one_b(stage, stages, micro_batches) for stage in range(stages)]
    while any(waiting):
        for rank, order in zip(ranks, waiting, strict=True):
            while order and _play(rank, *order[0], stages, layers, sent, flows):
                order.pop(0)
    finish = _finish(ranks)
    classes = tuple(
        RankClass(s * replicas, replicas, s, {"pp": s, "dp": 0, "tp": 0}, (0, finish))
        for s in range(stages)
    )
    spans = [_issued(make_spans(rank.rows)) for rank in ranks]
    return Record(
        names=NAMES, kinds=KINDS, groups=GROUPS, classes=classes, spans_of=lambda c: spans[c],
        group_members=tuple(tuple(range(stages)) for _ in GROUPS),
        causes_of=lambda c: make_no_causes(len(spans[c])),
        links=_links(finish), memory=tuple(_memory(s, stages, spans[s]) for s in range(stages)),
        flows=tuple(flows), step_time_ps=finish, num_steps=1,
        num_tasks=replicas * sum(len(s) for s in spans), num_events=1000, simulate_wall_s=0.5,
        details={"device_memory_bytes": 80 * 2**30, "groups_across_stages": (3,)},
    )  # fmt: skip


def _issued(spans: Spans) -> Spans:
    """A host issues in the order of the program."""
    return replace(spans, issue_ps=np.maximum.accumulate(spans.issue_ps))


def make_no_causes(size: int) -> Causes:
    """Nothing waited, and the host issued everything in one go."""
    none, zeros = np.full(size, -1, np.int64), np.zeros(size, np.int64)
    return Causes(none, np.zeros(size + 1, np.int64), zeros[:0], zeros, none)


def _play(
    rank: _Rank, phase: str, mb: int, stages: int, layers: int,
    sent: dict[tuple[str, int, int], tuple[int, int]], flows: list[Flow],
) -> bool:  # fmt: skip
    step = 1 if phase == "forward" else -1
    source, target = rank.stage - step, rank.stage + step
    if 0 <= source < stages:
        if (phase, mb, source) not in sent:
            return False
        span, transfer_start = sent[phase, mb, source]
        ready = max(rank.compute_ps, rank.recv_ps.get(phase, 0))
        start = max(ready, transfer_start)
        end = max(start + US, transfer_start + 40 * US)
        index = rank.add(
            f"pp_recv_{phase}", "recv", "recv", phase, ready, start, end, mb, group=1, size=16e6
        )
        flows.append(Flow(source, span, rank.stage, index))
        rank.compute_ps = rank.recv_ps[phase] = end
    rank.run_pass(phase, mb, layers)
    if 0 <= target < stages:
        start = max(rank.compute_ps, rank.send_ps.get(phase, 0))
        end = rank.send_ps[phase] = start + 40 * US
        span = rank.add(
            f"pp_send_{phase}", "send", "send", phase, start, start, end, mb, group=1, size=16e6
        )
        sent[phase, mb, rank.stage] = (span, start)
    return True


def _finish(ranks: list[_Rank]) -> int:
    """Reduce gradients, wait for the slowest stage, and run the optimizer."""
    arrived = []
    for rank in ranks:
        start = rank.compute_ps + 15 * US
        end = start + 300 * US
        rank.add(
            "dp",
            "grads",
            "reduce_scatter",
            "gradients",
            rank.compute_ps,
            start,
            end,
            group=2,
            size=2e9,
        )
        arrived.append(end)
    start = max(arrived)
    for rank, ready in zip(ranks, arrived, strict=True):
        rank.add(
            "dp",
            "grads",
            "reduce_scatter",
            "optimizer",
            ready,
            start,
            start + US,
            group=3,
            size=4.0,
        )
        at = start + US
        rank.add("compute", "adam", "optimizer", "optimizer", at, at, at + 200 * US)
    return start + 201 * US


def _links(finish: int) -> tuple[LinkClass, ...]:
    time = np.linspace(0, finish, 400, endpoint=False).astype(np.int64)
    number = np.arange(400, dtype=np.float64)
    waves = (0.5 + 0.4 * np.sin(number / 9), np.where(number % 40 < 12, 0.9, 0.0))
    shapes = (("nvlink", "nvlink", 900e9), ("nic rail 0", "nic", 50e9))
    return tuple(
        LinkClass(name, kind, 8, capacity, time, np.float64(capacity) * wave)
        for (name, kind, capacity), wave in zip(shapes, waves, strict=True)
    )


def _memory(stage: int, stages: int, spans: Spans) -> Memory:
    """Activations grow with each forward pass and shrink with each backward one."""
    compute = spans.lane == 0
    sign = np.where(spans.phase[compute] == PHASES.index("forward"), 1.0, -1.0)
    sign[spans.phase[compute] == PHASES.index("optimizer")] = 0.0
    activations = np.cumsum(sign) * 2**30 / 20 * (1 + 0.1 * (stages - stage))
    fixed = np.ones_like(activations) * 2**30
    rows = np.stack([fixed * 12, fixed * 16, fixed * 6, np.maximum(activations, 0.0)])
    total = rows.sum(axis=0)
    peak = int(np.argmax(total))
    owners = ("parameters", "gradients", "optimizer", "activations")
    return Memory(owners, spans.start_ps[compute], rows, float(total[peak]), peak, "attention")
