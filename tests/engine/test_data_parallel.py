"""Replicas: when gradients are reduced and parameters gathered, and who waits for that."""

from __future__ import annotations

import numpy as np
import pytest

from desim.plan.buckets import make_buckets
from desim.plan.data_groups import DataGroups
from desim.plan.pipeline_step import stage_chunks
from tests.jobs import LANE, PHASE, Played, job, play, with_system

SMALL = "20 MB"


def replicas(zero: int, micro_batches: int = 2, **overlap: str) -> Played:
    return play(
        job(
            workload__global_batch=8 * micro_batches,
            parallel__zero=zero,
            policies={"overlap": overlap, "bucket": SMALL},
        )
    )


def gradients_done_ps(played: Played, micro_batch: int) -> list[int]:
    """When the last gradient of each bucket is there, from the ends of its modules' kernels."""
    ((chunk,),) = stage_chunks(played.plan.context)
    pad = played.plan.scenario.parallel.zero > 0
    spans = played.spans()
    ends = []
    for bucket in make_buckets(chunk, 20e6 / 4, DataGroups(8, 8), pad=pad):
        position, part = bucket.modules[-1]
        number, layer = chunk[position]
        module = layer.modules[part]
        kernels = [op.name for op in (*module.dgrad, *module.wgrad)]
        rows = (spans.layer == number) & (spans.micro_batch == micro_batch)
        rows &= spans.phase == PHASE["backward"]
        rows &= np.isin(spans.name, [played.record.names.index(name) for name in kernels])
        ends.append(int(spans.end_ps[rows].max()))
    return ends


@pytest.mark.parametrize("zero", [0, 1])
def test_a_bucket_is_reduced_once_its_gradients_are_there(zero: int) -> None:
    """During the last micro-batch only, and once they are divided by the ranks."""
    played = replicas(zero, grad_reduce="bucketed")
    spans = played.spans()
    rows = played.rows(name="grad reduce")
    done = gradients_done_ps(played, micro_batch=1)
    scaled = [spans.end_ps[row] for row in played.rows(name="grad_scale")]
    assert len(rows) == len(done) == len(scaled) > 3
    assert all(after > before for after, before in zip(scaled, done, strict=True))
    for row, ready, before in zip(rows, scaled, [None, *rows], strict=False):
        after = [] if before is None else [spans.end_ps[before]]
        assert spans.ready_ps[row] == max(ready, spans.issue_ps[row], *after)
    assert {played.record.kinds[spans.kind[row]] for row in rows} == {
        "reduce_scatter" if zero else "all_reduce"
    }


def test_sharded_gradients_are_reduced_every_micro_batch() -> None:
    played = replicas(2, grad_reduce="bucketed")
    spans = played.spans()
    rows = played.rows(name="grad reduce")
    done = gradients_done_ps(played, 0) + gradients_done_ps(played, 1)
    assert len(rows) == len(done)
    assert (spans.ready_ps[rows] >= np.array(done)).all()


@pytest.mark.parametrize("zero", [0, 1, 2])
def test_without_overlap_nothing_computes_during_a_reduction(zero: int) -> None:
    played = replicas(zero, grad_reduce="none", param_gather="none")
    spans = played.spans()
    kernels = spans.lane == LANE["compute"]
    moving = played.rows(lane="dp")
    assert len(moving) > 4
    for row in moving:
        beside = (spans.start_ps < spans.end_ps[row]) & (spans.end_ps > spans.start_ps[row])
        assert not (kernels & beside).any()
    assert played.accounts()[0]["contention"] == 0


def test_the_norm_waits_for_every_reduction() -> None:
    played = replicas(1, grad_reduce="bucketed")
    spans = played.spans()
    (norm,) = played.rows(name="grad_norm")
    assert spans.start_ps[norm] >= spans.end_ps[played.rows(name="grad reduce")].max()
    (reduced,) = played.rows(name="grad norm")
    (update,) = played.rows(name="optimizer")
    assert spans.start_ps[reduced] >= spans.end_ps[norm]
    assert spans.start_ps[update] >= spans.end_ps[reduced]
    assert spans.size_bytes[reduced] == 4


def test_a_module_waits_for_its_parameters() -> None:
    """Gathers are issued in the order of use; no kernel starts before its bucket is there, and the
    first micro-batch starts before the last bucket is."""
    slow = with_system(
        job(parallel__zero=1, policies={"bucket": SMALL}), device={"nvlink_bytes_per_s": 20e9}
    )
    played = play(slow)
    spans = played.spans()
    ((chunk,),) = stage_chunks(played.plan.context)
    buckets = make_buckets(chunk, 20e6 / 4, DataGroups(8, 8), pad=True)
    rows = played.rows(name="param gather")
    assert len(rows) == len(buckets)
    assert spans.size_bytes[rows].tolist() == [2.0 * b.parameters for b in reversed(buckets)]
    forward = (spans.phase == PHASE["forward"]) & (spans.micro_batch == 0)
    for bucket, row in zip(reversed(buckets), rows, strict=True):
        for position, part in bucket.modules:
            number, layer = chunk[position]
            kernels = [played.record.names.index(op.name) for op in layer.modules[part].forward]
            used = forward & (spans.layer == number) & np.isin(spans.name, kernels)
            assert spans.start_ps[used].min() >= spans.end_ps[row]
    assert spans.start_ps[forward].min() < spans.end_ps[rows[-1]]
    assert played.accounts()[0]["exposed_dp"] > 0


def test_parameters_are_gathered_after_they_are_updated() -> None:
    played = play(job(parallel__zero=1, policies={"bucket": SMALL}, run__steps=2))
    spans = played.spans()
    updates = played.rows(name="optimizer")
    gathers = played.rows(name="param gather")
    second = [row for row in gathers if row > updates[0]]
    assert len(second) == len(gathers) // 2
    assert spans.start_ps[second].min() >= spans.end_ps[updates[0]]


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_autograd_keeps_the_first_gradient_and_adds_the_others(micro_batches: int) -> None:
    """Every weight is added to once for each micro-batch but the first, and nothing is cleared."""
    played = play(
        job(
            workload__global_batch=8 * micro_batches,
            workload__precision={"gradients": "bf16"},
            kernels={"fusion": "eager"},
            parallel__zero=1,
        )
    )
    assert "zero_gradients" not in played.record.names
    ((chunk,),) = stage_chunks(played.plan.context)
    spans, names = played.spans(), played.record.names
    for name in {m.name for _, layer in chunk for m in layer.modules if m.trained}:
        layers = sum(m.name == name for _, layer in chunk for m in layer.modules)
        added = f"{name}_accumulate"
        rows = played.rows(name=added) if added in names else []
        assert len(rows) == layers * (micro_batches - 1)
        assert all(spans.micro_batch[row] > 0 for row in rows)


def test_flat_copies_of_whole_tensors() -> None:
    """Where ranks own whole tensors a bucket is joined before its reduction and taken apart again:
    8 B per bf16 gradient beside the 4 B of the division."""
    played = play(
        job(
            workload__precision={"gradients": "bf16"},
            parallel__zero=1,
            policies={"zero_partition": "tensors", "bucket": SMALL},
        )
    )
    ops = {op.name: op for op in played.plan.context.tables.ops}
    scaled = ops["grad_scale"].read_bytes
    assert len(played.rows(name="grad_scale")) == len(played.rows(name="grad reduce")) > 1
    for name in ("grad_flatten", "grad_unflatten"):
        assert len(played.rows(name=name)) == len(played.rows(name="grad reduce"))
        assert ops[name].read_bytes == ops[name].write_bytes == scaled
