"""Law: sharing a sequence changes who computes and sends what, never how much is computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from desim.network.profile import collective_profile, send_profile
from desim.network.topology import build_topology
from desim.record import PS_PER_S
from tests.jobs import BASE, LANE, Played, instant, job, play, with_system
from tests.laws.test_folding import check
from tests.network.build import system

MODEL = {**BASE["workload"]["model"], "layers": 1}
EXCHANGES = ("all_gather", "ring", "all_to_all")


def shared(context: int, exchange: str, **changes: Any) -> Played:
    return play(scenario(context, exchange, **changes))


def scenario(
    context: int,
    exchange: str,
    tokens: int = 4096,
    *,
    inside: int | None = None,
    balance: str = "zigzag",
    **model: Any,
) -> Any:
    return job(
        workload__model={**MODEL, **model},
        workload__sequence_length=tokens,
        workload__global_batch=8,
        parallel={"context": context},
        policies={"context": exchange, "context_inside": inside, "context_balance": balance},
    )


def attention_flops(played: Played) -> float:
    ops = list(played.plan.context.tables.ops)
    numbers = played.plan.programs[0].op
    return sum(ops[i].flops for i in numbers[numbers >= 0] if ops[i].kind == "attention")


def sent(played: Played) -> float:
    """Bytes that a rank sends over its context group in a step, by closed forms of each."""
    spans = played.spans()
    context = played.plan.scenario.parallel.context
    total = 0.0
    for row in np.flatnonzero(spans.lane == LANE["cp"]):
        kind = played.record.kinds[spans.kind[row]]
        share = 1.0 if kind == "shift" else (context - 1) / context
        total += share * spans.size_bytes[row]
    return total


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("context", [2, 4, 8])
def test_every_exchange_computes_the_same(context: int, causal: bool) -> None:
    one = attention_flops(shared(1, "all_gather", causal=causal))
    for exchange in EXCHANGES:
        played = shared(context, exchange, causal=causal)
        micro_batches = context  # the batch is shared by 1/context of the replicas
        assert attention_flops(played) * context == pytest.approx(one * micro_batches)


@pytest.mark.parametrize("context", [2, 4, 8])
def test_bytes_of_every_exchange(context: int) -> None:
    """K and V of a rank: (c - 1) times forward, again and with gradients backward, by gather or
    ring. All-to-all: 4 tensors of a rank each way, of which 1/c stays."""
    tokens, width, micro_batches = 4096, 2 * 1024, context
    kv_bytes = 2 * tokens / context * width
    ring = 3 * (context - 1) * kv_bytes * micro_batches
    assert sent(shared(context, "ring")) == pytest.approx(ring)
    assert sent(shared(context, "all_gather")) == pytest.approx(ring)
    tensors = 8 * tokens / context * width * micro_batches
    assert sent(shared(context, "all_to_all")) == pytest.approx(tensors * (context - 1) / context)


def test_a_hop_is_a_message() -> None:
    """A shift takes what a message to the next member takes, inside a node and between nodes."""
    topology = build_topology(system(), 32)
    for members in (np.arange(8), np.arange(0, 32, 8)):
        shift = collective_profile(topology, members[None, :], "shift", "pairs")
        message = send_profile(topology, members[:1], members[1:2])
        assert shift.latency_s[0] == message.latency_s[0]
        assert shift.seconds_per_byte[0] == pytest.approx(message.seconds_per_byte[0])


def test_a_ring_hides_its_hops_behind_attention() -> None:
    """With long kernels nothing of the ring is exposed; with short ones all but one of c - 1 hops
    forward wait for the one before: the step is kernels plus exposed hops."""
    slow = play(scenario(4, "ring"), times=lambda op: 1e-3 if op.kind == "attention" else 1e-6)
    assert sum(account["exposed_cp"] for account in slow.accounts()) == 0
    quick = play(scenario(4, "ring"), times=lambda _: 1e-9, host=0.0)
    spans = quick.spans()
    hops = spans.lane == LANE["cp"]
    busy = int((spans.end_ps - spans.start_ps)[hops].sum())
    assert quick.accounts()[0]["exposed_cp"] > 0.99 * busy


def test_free_communication_leaves_the_kernels() -> None:
    """With links of no delay a ring takes its own kernels' time and nothing more."""
    played = play(instant(scenario(4, "ring")), times=lambda _: 1e-5, host=0.0)
    kernels = int((played.plan.programs[0].op[played.plan.programs[0].cut_tasks[0] :] >= 0).sum())
    assert played.step_ps == pytest.approx(kernels * 1e-5 * PS_PER_S, rel=1e-3)


LEVELS = {"context": "two_level"}


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("inside", [2, 4])
def test_two_levels_compute_the_same(inside: int, causal: bool) -> None:
    one = attention_flops(shared(1, "all_gather", causal=causal))
    played = play(scenario(8, "two_level", causal=causal, inside=inside))
    assert attention_flops(played) == pytest.approx(one)


@pytest.mark.parametrize("inside", [1, 2, 4, 8])
def test_bytes_of_two_levels(inside: int) -> None:
    """All-to-alls: 8 tensors of a rank, as without a ring; ring: 3 (c / a - 1) times K and V, of
    1/a of the heads of a ranks. One rank inside is a ring, all are an all-to-all."""
    played = play(scenario(8, "two_level", inside=inside))
    spans = played.spans()
    rows = np.flatnonzero(spans.lane == LANE["cp"])
    kinds = [played.record.kinds[spans.kind[row]] for row in rows]
    size = spans.size_bytes[rows]
    exchanged = sum(s for s, kind in zip(size, kinds, strict=True) if kind == "all_to_all")
    passed = sum(s for s, kind in zip(size, kinds, strict=True) if kind == "shift")
    tensor = 4096 / 8 * 2 * 1024 * 8  # tokens of a rank x bytes x micro-batches
    assert exchanged == pytest.approx(8 * tensor if inside > 1 else 0)
    assert passed == pytest.approx(3 * (8 // inside - 1) * 2 * tensor)
    if inside in (1, 8):
        name = "ring" if inside == 1 else "all_to_all"
        assert played.step_ps == shared(8, name).step_ps


def test_heads_are_exchanged_inside_a_node_by_default() -> None:
    """16 context ranks, 8 key heads, nodes of 8 or of 4: 8 or 4 of them exchange heads, and no
    all-to-all leaves a node."""
    for per_node in (8, 4):
        wide = job(
            workload__model=MODEL,
            workload__sequence_length=4096,
            cluster__devices=16,
            parallel={"context": 16},
            policies=LEVELS,
        )
        narrow = with_system(
            wide, devices_per_node=per_node, nics_per_node=per_node, nvlink_domain=per_node
        )
        wiring = play(narrow).plan.wiring
        inside = wiring.members["cp_inside"]
        assert inside.shape == (16 // per_node, per_node)
        assert (inside // per_node == inside[:, :1] // per_node).all()
        assert wiring.members["cp_across"].shape == (per_node, 16 // per_node)


@pytest.mark.parametrize("exchange", ["all_gather", "ring", "two_level"])
def test_contiguous_chunks_unbalance_causal_work(exchange: str) -> None:
    """Chunk i of c sees (i + 1/2) / c^2 of all pairs, of which a causal mask leaves half: ranks
    together compute as much, the last one 2 - 1/c times the mean."""
    inside = 2 if exchange == "two_level" else None
    balanced = play(scenario(4, exchange, inside=inside))
    cut = play(scenario(4, exchange, inside=inside, balance="contiguous"))
    ops = list(cut.plan.context.tables.ops)
    ranks = np.bincount(cut.plan.program_of)
    flops = np.array(
        [
            sum(ops[i].flops for i in p.op[p.op >= 0] if ops[i].kind == "attention")
            for p in cut.plan.programs
        ]
    )
    places = 2 if exchange == "two_level" else 4
    assert len(flops) == places
    assert flops @ ranks == pytest.approx(8 * attention_flops(balanced))
    mean = flops @ ranks / 8
    assert flops / mean == pytest.approx([(2 * i + 1) / places for i in reversed(range(places))])
    assert len(cut.record.classes) == places


def test_contiguous_chunks_slow_the_step_where_attention_takes_long() -> None:
    """Where attention takes all the time, the step grows with the work of the last rank."""

    def times(op: Any) -> float:
        return op.flops * 1e-12 if op.kind == "attention" else 1e-12

    zigzag, contiguous = (
        play(instant(scenario(4, "all_gather", balance=balance)), times=times, host=0.0)
        for balance in ("zigzag", "contiguous")
    )
    assert contiguous.step_ps == pytest.approx(zigzag.step_ps * (2 - 1 / 4), rel=1e-2)


@pytest.mark.parametrize("exchange", ["all_gather", "ring", "two_level"])
def test_unbalanced_ranks_fold(exchange: str) -> None:
    check(scenario(4, exchange, balance="contiguous"))
