"""Buckets: every parameter once, in the order of the backward pass, padded where sharded."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from desim.models.op import Layer, Module
from desim.plan.buckets import PADDING, make_buckets
from desim.plan.build import make_context
from desim.plan.data_groups import DataGroups
from desim.plan.pipeline_step import stage_chunks
from desim.plan.step_ends import StepEnds
from tests.jobs import job

LAYERS = st.lists(
    st.lists(st.integers(0, 5000), min_size=1, max_size=6), min_size=1, max_size=8
).filter(lambda layers: any(sum(sizes) for sizes in layers))


@given(LAYERS, st.integers(1, 20000), st.integers(2, 64), st.booleans())
def test_buckets_hold_every_parameter_once(
    layers: list[list[int]], wanted: int, ranks: int, pad: bool
) -> None:
    chunk = tuple(
        (at, Layer("block", tuple(Module(str(i), (), parameters=n) for i, n in enumerate(sizes))))
        for at, sizes in enumerate(layers)
    )
    buckets = make_buckets(chunk, wanted, DataGroups(ranks, ranks), pad=pad)
    order = [module for bucket in buckets for module in bucket.modules]
    backward = [
        (at, part)
        for at in reversed(range(len(layers)))
        for part in reversed(range(len(layers[at])))
        if layers[at][part]
    ]
    assert order == backward
    for number, bucket in enumerate(buckets):
        whole = sum(layers[at][part] for at, part in bucket.modules)
        unit = PADDING * ranks
        assert bucket.parameters == (-(-whole // unit) * unit if pad else whole)
        last_at, last_part = bucket.modules[-1]
        if number < len(buckets) - 1:
            assert whole >= wanted
        assert whole - layers[last_at][last_part] < wanted


@pytest.mark.parametrize(("replicas", "elements"), [(8, 40e6), (64, 64e6)])
def test_buckets_are_sized_as_in_megatron(replicas: int, elements: float) -> None:
    """40 M elements, or 1 M for each data-parallel rank where that is more; one bucket in stages
    and chunks that are not the first, or where nothing overlaps."""
    devices, batch = 2 * replicas, 2 * replicas
    parallel = {"pipeline": 2, "virtual_stages": 2}
    jobs = {"cluster__devices": devices, "workload__global_batch": batch, "parallel": parallel}
    context = make_context(job(**jobs, policies={"schedule": "interleaved"}))
    assert context.bucket_parameters(whole_chunk=False) == elements
    buckets = [StepEnds(context, s, c).buckets for s, c in enumerate(stage_chunks(context))]
    assert [len(chunk) for stage in buckets for chunk in stage] == [1, 1, 1, 1]
    given = make_context(job(**jobs, policies={"schedule": "interleaved", "bucket": "4 MB"}))
    buckets = [StepEnds(given, s, c).buckets for s, c in enumerate(stage_chunks(given))]
    assert all(len(chunk) > 1 for stage in buckets for chunk in stage)
    apart = {"schedule": "interleaved", "overlap": {"grad_reduce": "none"}}
    assert make_context(job(**jobs, policies=apart)).bucket_parameters(whole_chunk=False) == inf
