"""Buckets: every parameter once, in the order of the backward pass, padded where sharded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from desim.models.op import Layer, Module
from desim.plan.buckets import PADDING, make_buckets
from desim.plan.data_groups import DataGroups

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
