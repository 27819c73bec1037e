"""Law: how data-parallel communication is cut, and when it runs, moves no byte but padding."""

from __future__ import annotations

from math import lcm
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from desim.models.op import Layer, Module
from desim.plan.buckets import PADDINGS, Bucket, make_buckets
from desim.plan.data_groups import DataGroups
from desim.plan.pipeline_step import stage_chunks
from desim.plan.stages import Chunk
from desim.plan.step_ends import StepEnds
from tests.jobs import BASE, LANE, PHASE, Played, job, play, same_bits

WIDE = {**BASE["workload"]["model"], "hidden": 2048, "ffn": 8192, "heads": 16, "kv_heads": 16}
CUTS: list[dict[str, Any]] = [
    {"overlap": {"grad_reduce": "none"}},
    {"overlap": {"grad_reduce": "per_layer"}},
    {"bucket": "5 MB"},
    {"bucket": "5 MB", "overlap": {"param_gather": "chained"}},
    {"bucket": "100 MB"},
    {"bucket": "100 GB"},
]


def replicas(zero: int, micro_batches: int = 1, devices: int = 8, **policies: Any) -> Played:
    return play(
        job(
            workload__model=WIDE,
            cluster__devices=devices,
            workload__global_batch=devices * micro_batches,
            parallel__zero=zero,
            policies=policies,
        )
    )


def moved(played: Played, name: str) -> np.ndarray:
    rows = played.rows(name=name) if name in played.record.names else []
    return played.spans().size_bytes[rows]


def parameters(played: Played) -> int:
    return sum(layer.trained for layer in played.plan.context.layers)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("zero", [0, 1, 2])
def test_buckets_move_the_same_bytes(zero: int, cut: dict[str, Any]) -> None:
    """Every gradient (4 bytes) is reduced once, under ZeRO every parameter (2) gathered once."""
    played = replicas(zero, bucket_padding="none", **cut)
    assert moved(played, "grad reduce").sum() == 4 * parameters(played)
    assert moved(played, "param gather").sum() == (2 * parameters(played) if zero else 0)


def test_a_bucket_per_layer() -> None:
    """Gradients are reduced in one piece for each layer that has parameters, last layer first."""
    played = replicas(0, overlap={"grad_reduce": "per_layer"})
    trained = [layer.trained for layer in played.plan.context.layers if layer.trained]
    assert moved(played, "grad reduce").tolist() == [4.0 * n for n in reversed(trained)]


@pytest.mark.parametrize("overlap", ["none", "bucketed", "per_layer"])
@pytest.mark.parametrize("zero", [0, 1])
def test_reducing_every_micro_batch_moves_as_often(zero: int, overlap: str) -> None:
    once, every = (
        replicas(
            zero, 3, overlap={"grad_reduce": overlap}, reduce_every_micro_batch=each, bucket="50 MB"
        )
        for each in (False, True)
    )
    assert moved(every, "grad reduce").sum() == 3 * moved(once, "grad reduce").sum()
    assert moved(every, "param gather").tolist() == moved(once, "param gather").tolist()
    assert every.step_ps > once.step_ps


def test_stages_reduce_every_micro_batch_of_every_chunk() -> None:
    """Under a pipeline too: each chunk of each stage after each of its backward passes."""
    ways = {"1f1b": 1, "interleaved": 2, "zb_h1": 1, "dualpipe": 1, "dualpipe_v": 2}
    for schedule, chunks in ways.items():
        for overlap in ("none", "bucketed"):
            played = play(
                job(
                    parallel={"pipeline": 2, "virtual_stages": chunks},
                    workload__global_batch=16,
                    policies={
                        "schedule": schedule,
                        "overlap": {"grad_reduce": overlap},
                        "reduce_every_micro_batch": True,
                    },
                )
            )
            for stage in (0, 1):
                rows = played.rows(stage, name="grad reduce")
                spans = played.spans(stage)
                assert len(rows) == 4 * chunks
                if overlap == "none":
                    computing = spans.lane == LANE["compute"]
                    for row in rows:
                        beside = (spans.start_ps < spans.end_ps[row]) & computing
                        assert not (beside & (spans.end_ps > spans.start_ps[row])).any()


def test_chained_gathers_come_one_ahead_of_their_use() -> None:
    """Bucket j + 1 is gathered once all before bucket j's first use has been computed, and every
    bucket is there before it is used; the order and the bytes are those of gathers issued at once.
    """
    chained, at_once = (
        replicas(1, bucket="5 MB", overlap={"param_gather": mode})
        for mode in ("chained", "prefetch")
    )
    assert moved(chained, "param gather").tolist() == moved(at_once, "param gather").tolist()
    spans, rows = chained.spans(), chained.rows(name="param gather")
    ((chunk,),) = stage_chunks(chained.plan.context)
    buckets = list(reversed(StepEnds(chained.plan.context, 0, [chunk]).gathers.shares[0]))
    assert len(rows) == len(buckets) > 3
    forward = (spans.phase == PHASE["forward"]) & (spans.lane == LANE["compute"])
    used = [_first_use_ps(chained, chunk, bucket, forward) for bucket in buckets]
    for number, (row, first) in enumerate(zip(rows, used, strict=True)):
        assert spans.end_ps[row] <= first
        if number > 1:
            before = forward & (spans.start_ps < used[number - 1])
            assert spans.ready_ps[row] >= spans.end_ps[before].max(initial=0)


def _first_use_ps(played: Played, chunk: Chunk, bucket: Bucket, forward: np.ndarray) -> int:
    spans = played.spans()
    position, part = min(bucket.modules)
    number, layer = chunk[position]
    kernels = [played.record.names.index(op.name) for op in layer.modules[part].forward]
    return int(
        spans.start_ps[forward & (spans.layer == number) & np.isin(spans.name, kernels)].min()
    )


UNITS = {
    "aligned_shards": lambda ranks: 64 * ranks,
    "megatron": lambda ranks: lcm(ranks, 128),
    "megatron_busbw": lambda ranks: lcm(ranks, 128, 65536),
    "none": lambda ranks: 1,
}


@given(
    st.lists(st.integers(1, 300_000), min_size=1, max_size=8),
    st.integers(1, 400_000),
    st.integers(2, 96),
    st.sampled_from(sorted(UNITS)),
    st.booleans(),
)
def test_padding_is_what_is_stated(
    sizes: list[int], wanted: int, ranks: int, padding: str, by_layer: bool
) -> None:
    """A bucket is rounded up to the next multiple, never further; the same holds by layer."""
    assert set(UNITS) == set(PADDINGS)
    chunk = tuple(
        (at, Layer("block", (Module("m", (), parameters=n),))) for at, n in enumerate(sizes)
    )
    groups = DataGroups(ranks, ranks)
    buckets = make_buckets(chunk, wanted, groups, pad=True, padding=padding, by_layer=by_layer)
    unit = UNITS[padding](ranks)
    assert sum(bucket.held for bucket in buckets) == sum(sizes)
    for bucket in buckets:
        assert bucket.parameters % unit == 0
        assert 0 <= bucket.parameters - bucket.held < unit
    if by_layer:
        assert len(buckets) == len(sizes)


@pytest.mark.parametrize(
    "policies",
    [
        *CUTS,
        {"overlap": {"param_gather": "none"}},
        {"bucket_padding": "megatron_busbw"},
        {"reduce_every_micro_batch": True},
        {"collectives": {"groups": {"dp": {"all_reduce": "tree", "protocols": "ll"}}}},
        {"resources": {"network_sms": 2}},
        {"resources": {"max_connections": 1}},
        {"fsdp": {"issue": "implicit"}},
    ],
)
def test_one_replica_has_nothing_to_choose(policies: dict[str, Any]) -> None:
    """At dp = 1 no choice about replicas changes anything, to the last bit."""
    for zero in (0, 1):
        played = [replicas(zero, 2, devices=1, **chosen) for chosen in ({}, policies)]
        assert same_bits(*played)
        assert played[0].record.memory[0].peak_bytes == played[1].record.memory[0].peak_bytes


@pytest.mark.parametrize(
    "together", [{"overlap": {"grad_reduce": "per_layer"}}, {"bucket": "25 MB"}]
)
@pytest.mark.parametrize("every", [False, True])
def test_overlap_is_between_the_longer_and_the_sum(together: dict[str, Any], every: bool) -> None:
    """Never faster than kernels or communication alone, never slower than one after the other by
    more than the contention and the slowing of collectives that the account states."""
    ran = play(
        job(
            workload__model=WIDE,
            workload__global_batch=16,
            parallel__zero=1,
            policies={**together, "reduce_every_micro_batch": every},
        ),
        host=0.0,
    )
    spans = ran.spans()
    took = spans.end_ps - spans.start_ps
    compute, dp = spans.lane == LANE["compute"], spans.lane == LANE["dp"]
    alone = int(spans.alone_ps[compute].sum())
    moving = int(spans.alone_ps[dp].sum())
    contention = int(took[compute].sum()) - alone
    slowed = int(took[dp].sum()) - moving
    assert ran.accounts()[0]["contention"] == contention
    assert max(alone, moving) < ran.step_ps <= alone + moving + contention + slowed
