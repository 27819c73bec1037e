"""Fully sharded data parallel: gathers ahead of their use, a limit in flight, resharding."""

from __future__ import annotations

import numpy as np
import pytest

from tests.jobs import BASE, LANE, PHASE, Played, job, play

LAYERS = 6
WHOLE = LAYERS + 2  # with embedding and head
WIDE = {
    **BASE["workload"]["model"],
    "layers": LAYERS,
    "hidden": 4096,
    "ffn": 16384,
    "heads": 32,
    "kv_heads": 32,
}


def sharded(host: float = 1.0, batch: int = 8, tokens: int = 1024, **fsdp: object) -> Played:
    return play(
        job(
            workload__model=WIDE,
            workload__global_batch=batch,
            workload__sequence_length=tokens,
            parallel__zero=3,
            policies={"fsdp": fsdp, "sync": "step"},
        ),
        host=host,
    )


def gathers(played: Played) -> list[int]:
    return played.rows(name="param gather")


def freed_ps(played: Played) -> list[int]:
    """When each gathered layer is freed, by order of gathering: at the end of its last kernel.

    Layers are gathered for the forward pass and, but for the head, again for the backward pass.
    """
    spans = played.spans()
    kernels = spans.lane == LANE["compute"]
    ends = []
    for phase, order in (
        ("forward", range(WHOLE - 1)),
        ("backward", reversed(range(WHOLE))),
    ):
        for layer in order:
            rows = kernels & (spans.phase == PHASE[phase]) & (spans.layer == layer)
            ends.append(int(spans.end_ps[rows].max()))
    return ends


@pytest.mark.parametrize("limit", [1, 2, 3])
@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_gathered_layers_never_exceed_the_limit(limit: int, prefetch: int) -> None:
    """Counted from when the host issues a gather (it takes memory then) until the layer is freed.

    The host is ahead of the device, so that it reaches the limit even without prefetching.
    """
    played = sharded(prefetch=prefetch, gathers_in_flight=limit)
    spans = played.spans()
    issued = spans.issue_ps[gathers(played)]
    freed = np.array(freed_ps(played))
    assert len(issued) == len(freed) == 2 * WHOLE - 1
    held = [int((issued <= at).sum() - (freed < at).sum()) for at in issued]
    assert max(held) == limit


def test_the_ledger_agrees_with_the_limit() -> None:
    """The largest sum of gathered parameters is that of the blocks in flight."""
    for limit in (1, 2, 3):
        played = sharded(prefetch=4, gathers_in_flight=limit)
        memory = played.record.memory[0]
        row = memory.by_owner[memory.owners.index("gathered parameters")]
        block = max(layer.parameters for layer in played.plan.context.layers) * 2.0
        assert row.max() == pytest.approx(limit * block, rel=1e-9)
        assert row[0] == row[-1] == 0.0


def covered(played: Played, row: int) -> bool:
    """Whether kernels run from the start of a span to its end without a pause."""
    spans = played.spans()
    start, end = int(spans.start_ps[row]), int(spans.end_ps[row])
    at = start
    for kernel in played.rows(lane="compute"):
        if spans.start_ps[kernel] <= at < spans.end_ps[kernel]:
            at = int(spans.end_ps[kernel])
    return at >= end


def idle(played: Played, row: int) -> bool:
    """Whether no kernel runs during a span."""
    spans = played.spans()
    kernels = spans.lane == LANE["compute"]
    beside = (spans.start_ps < spans.end_ps[row]) & (spans.end_ps > spans.start_ps[row])
    return not (kernels & beside).any()


def test_one_layer_at_a_time_exposes_every_gather() -> None:
    """With one in flight a layer is gathered when the one before is freed."""
    played = sharded(host=0.0, tokens=4096, prefetch=1, gathers_in_flight=1)
    assert all(idle(played, row) for row in gathers(played))


def test_prefetch_hides_the_gathers_of_blocks() -> None:
    """A block computes for longer than the next one is gathered, forward and backward.

    Left are the first gather of the step, and those that only the small ends run beside: the first
    block's, beside the embedding, and that of the first block backward, beside the head.
    """
    played = sharded(host=0.0, tokens=4096, prefetch=1, gathers_in_flight=2)
    hidden = [covered(played, row) for row in gathers(played)]
    exposed = [place for place, whole in enumerate(hidden) if not whole]
    assert exposed == [0, 1, WHOLE]


def test_without_prefetch_a_gather_queues_behind_the_reduction() -> None:
    """Both are on one lane: in the backward pass the next gather, issued after the reduction of the
    layer before, waits for it and for the gradients that it reduces."""
    ahead, behind = (
        sharded(host=0.0, tokens=4096, prefetch=number, gathers_in_flight=2) for number in (1, 0)
    )
    forward = slice(2, WHOLE)
    assert all(covered(behind, row) for row in gathers(behind)[forward])
    backward = gathers(behind)[WHOLE:]
    assert not any(covered(behind, row) for row in backward[1:])
    assert ahead.step_ps < behind.step_ps


def test_a_gather_is_done_before_its_layer_begins() -> None:
    played = sharded(prefetch=1, gathers_in_flight=2, batch=16)
    spans = played.spans()
    kernels = spans.lane == LANE["compute"]
    order = [*range(WHOLE), *reversed(range(WHOLE - 1))]
    phases = ["forward"] * WHOLE + ["backward"] * (WHOLE - 1)
    assert len(gathers(played)) == 2 * len(order)
    for at, row in enumerate(gathers(played)):
        micro_batch, place = divmod(at, len(order))
        used = kernels & (spans.layer == order[place]) & (spans.micro_batch == micro_batch)
        used &= spans.phase == PHASE[phases[place]]
        assert spans.end_ps[row] <= spans.start_ps[used].min()


def test_resharding_gathers_twice() -> None:
    """All but the head: it is used again at once."""
    twice = sharded(prefetch=1, gathers_in_flight=2, reshard_after_forward=True)
    once = sharded(prefetch=1, gathers_in_flight=2, reshard_after_forward=False)
    assert len(gathers(twice)) == 2 * WHOLE - 1
    assert len(gathers(once)) == WHOLE
    assert once.record.memory[0].peak_bytes > twice.record.memory[0].peak_bytes


def test_each_layer_reduces_its_gradients_once_per_micro_batch() -> None:
    played = sharded(prefetch=1, gathers_in_flight=2, batch=16)
    spans = played.spans()
    reduced = played.rows(name="grad reduce")
    assert len(reduced) == 2 * WHOLE
    sizes = spans.size_bytes[reduced]
    parameters = [layer.parameters for layer in played.plan.context.layers]
    assert sizes.tolist() == [4.0 * n for n in reversed(parameters)] * 2


def test_gradients_may_wait_for_the_last_micro_batch() -> None:
    """Each layer is reduced once a step; until then its whole gradient is kept."""
    every = sharded(batch=24)
    once = sharded(batch=24, reduce_every_micro_batch=False)
    sizes = [p.spans().size_bytes[p.rows(name="grad reduce")] for p in (every, once)]
    assert len(sizes[0]) == 3 * len(sizes[1]) == 3 * WHOLE
    assert sizes[0].sum() == 3 * sizes[1].sum()
    memory = once.record.memory[0]
    row = memory.by_owner[memory.owners.index("gathered gradients")]
    whole = sum(layer.parameters for layer in once.plan.context.layers) * 4.0
    assert row.max() == pytest.approx(whole)
    assert row[-1] == 0.0


def test_the_root_unit_is_gathered_once_and_kept() -> None:
    """Embedding and head are gathered together before the first block and freed after the last
    backward pass; the blocks keep their limit. Bytes are those of units of their own, but that the
    embedding is not gathered again."""
    root, own = sharded(root_unit=True), sharded()
    parameters = [layer.parameters for layer in own.plan.context.layers]
    ends = parameters[0] + parameters[-1]
    sizes = root.spans().size_bytes[gathers(root)]
    assert len(sizes) == 1 + 2 * LAYERS
    assert sizes[0] == 2.0 * ends
    assert sizes.sum() == own.spans().size_bytes[gathers(own)].sum() - 2.0 * parameters[0]
    reduced = root.spans().size_bytes[root.rows(name="grad reduce")]
    assert reduced[-1] == 4.0 * ends
    assert reduced.sum() == 4.0 * sum(parameters)
    memory = root.record.memory[0]
    row = memory.by_owner[memory.owners.index("gathered parameters")]
    assert row.max() == 2.0 * (ends + 2 * parameters[1])
    assert row[-1] == 0.0


def test_parameters_of_their_own_are_copied_out() -> None:
    """Every gather is followed by a copy that reads and writes what was gathered."""
    played = sharded(per_parameter=True)
    copies = played.rows(name="param copy out")
    assert len(copies) == len(gathers(played))
    ops = [op for op in played.plan.context.tables.ops if op.name == "param copy out"]
    assert {op.read_bytes for op in ops} == set(played.spans().size_bytes[gathers(played)].tolist())
    assert all(op.write_bytes == op.read_bytes for op in ops)
