"""Layers of a recommendation model: volumes of look-ups and exchanges."""

from __future__ import annotations

from math import expm1

import pytest

from desim.models.count import dlrm_forward_flops
from desim.models.dlrm import build_dlrm
from desim.models.shard import Shard
from desim.spec.policy import Kernels
from desim.spec.workload import Dlrm, Precision

MODEL = Dlrm(
    family="dlrm",
    name="small",
    source="test",
    tables=64,
    rows=1000,
    embedding_dim=128,
    pooling=20,
    bottom_mlp=(13, 512, 128),
    top_mlp=(480, 512, 1),
    interaction="dot",
)
PRECISION = Precision(compute="tf32", embedding="fp16", optimizer="adagrad_rowwise")


def cut(ranks: int) -> Shard:
    return Shard(1, False, 1, ranks, 128, 1, PRECISION, Kernels())


def test_layers_and_parameters() -> None:
    layers = build_dlrm(MODEL, cut(8), 1024, 128)
    assert [layer.kind for layer in layers] == ["tables", "bottom", "interaction", "top"]
    assert layers[0].parameters == 64 * 1000 * 128 // 8
    assert layers[1].parameters + layers[3].parameters == 13 * 512 + 512 * 128 + 480 * 512 + 512


@pytest.mark.parametrize("ranks", [2, 8, 64])
def test_exchange_is_one_pooled_vector_per_sample_and_table(ranks: int) -> None:
    """What a rank sends does not depend on how often rows are looked up, nor, at a fixed local
    batch, on the number of ranks."""
    (module,) = build_dlrm(MODEL, cut(ranks), 128 * ranks, 128)[0].modules
    for comm in (*module.post_forward, *module.pre_backward):
        assert (comm.group, comm.collective) == ("world", "all_to_all")
        assert comm.size_bytes == 128 * 64 * 128 * 2


def test_lookup_bytes() -> None:
    """Rows of 256 B and indices of 8 B in, pooled vectors out; the update writes rows and state."""
    (module,) = build_dlrm(MODEL, cut(8), 1024, 128)[0].modules
    bags = 1024 * 64 / 8
    (lookup,), (update,) = module.forward, module.wgrad
    assert lookup.read_bytes == bags * 20 * (256 + 8)
    assert lookup.write_bytes == bags * 256
    lookups_per_row = 1024 * 20 / 1000
    different = -expm1(-lookups_per_row) / lookups_per_row
    assert update.read_bytes == pytest.approx(bags * (256 + 20 * (different * (256 + 4) + 8)))
    assert update.write_bytes == pytest.approx(bags * 20 * different * (256 + 4))


def test_copied_tables_exchange_gradients_only() -> None:
    (module,) = build_dlrm(MODEL, cut(1), 1024, 128)[0].modules
    assert module.post_forward == ()
    (gather,) = module.pre_backward
    assert (gather.collective, gather.size_bytes) == ("all_gather", 1024 * 64 * (256 + 160))
    (alone,) = build_dlrm(MODEL, cut(1), 128, 128)[0].modules
    assert alone.pre_backward == ()


def test_forward_flops_equal_closed_form() -> None:
    layers = build_dlrm(MODEL, cut(8), 1024, 128)
    flops = sum(
        op.flops for layer in layers for m in layer.modules for op in m.forward if op.kind == "gemm"
    )
    assert flops == 128 * dlrm_forward_flops(MODEL)
