"""Law: parameter counts equal the published ones to the unit; FLOPs equal their closed forms."""

from __future__ import annotations

import pytest

from desim.models.build import build_layers
from desim.models.count import (
    block_matrix_parameters,
    dlrm_forward_flops,
    model_flops_per_sample,
    parameter_count,
)
from desim.models.op import Layer
from desim.models.optimizer import bytes_per_parameter, table_bytes_per_parameter
from desim.models.shard import Shard
from desim.spec.policy import Kernels
from desim.spec.workload import Dlrm, Precision, Transformer, Workload


def llama(
    layers: int, hidden: int, heads: int, kv_heads: int, ffn: int, vocab: int = 32000
) -> Transformer:
    return Transformer(
        family="transformer",
        name="llama",
        source="test",
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=hidden // heads,
        ffn=ffn,
        gated=True,
        vocab=vocab,
    )


LLAMA2_70B = llama(80, 8192, 64, 8, 28672)
LLAMA2_7B = llama(32, 4096, 32, 32, 11008)
GPT3 = Transformer(
    family="transformer",
    name="gpt3",
    source="test",
    layers=96,
    hidden=12288,
    heads=96,
    kv_heads=96,
    head_dim=128,
    ffn=49152,
    gated=False,
    vocab=50257,
    norm="layer",
    position="learned",
    max_positions=2048,
    bias=True,
    tied_embeddings=True,
)
DLRM_A = Dlrm(
    family="dlrm",
    name="dlrm_a",
    source="test",
    tables=4096,
    rows=2_080_000,
    embedding_dim=94,
    pooling=15,
    bottom_mlp=(3994,) * 11,
    top_mlp=(3994,) * 11,
)


def shard(tensor: int = 1, sequence_length: int = 4096, **changes: object) -> Shard:
    fields: dict[str, object] = {
        "sequence": True,
        "context": 1,
        "data_ranks": 1,
        "micro_batch": 1,
        "precision": Precision(),
        "kernels": Kernels(),
    }
    fields.update(changes)
    return Shard(tensor=tensor, sequence_length=sequence_length, **fields)  # type: ignore[arg-type]


def layers_of(model: Transformer, cut: Shard) -> tuple[Layer, ...]:
    workload = Workload(
        model=model, sequence_length=cut.sequence_length, global_batch=8, micro_batch=1
    )
    return build_layers(workload, cut)


@pytest.mark.parametrize(
    ("model", "published"),
    [
        (LLAMA2_70B, 68_976_648_192),
        (LLAMA2_7B, 6_738_415_616),
        (llama(80, 8192, 64, 64, 22016), 65_285_660_672),
        (llama(32, 4096, 32, 8, 14336, vocab=128256), 8_030_261_248),
    ],
    ids=["llama2_70b", "llama2_7b", "llama_65b", "llama3_8b"],
)
def test_published_counts(model: Transformer, published: int) -> None:
    assert parameter_count(model) == published


def test_gpt3_closed_form() -> None:
    """12 L h^2 (1 + 13/(12 h)) + (V + s) h + 2 h: matrices, biases and norms, tables, last norm."""
    layers, hidden = 96, 12288
    expected = layers * (12 * hidden**2 + 13 * hidden) + (50257 + 2048) * hidden + 2 * hidden
    assert parameter_count(GPT3) == expected
    assert parameter_count(GPT3) == pytest.approx(174.6e9, rel=1e-3)


def test_dlrm_count() -> None:
    assert parameter_count(DLRM_A) == 4096 * 2_080_000 * 94 + 20 * 3994**2
    assert parameter_count(DLRM_A) == pytest.approx(801.17e9, rel=1e-3)
    assert dlrm_forward_flops(DLRM_A) == pytest.approx(0.638e9, rel=1e-3)


@pytest.mark.parametrize("model", [LLAMA2_70B, GPT3], ids=["llama2_70b", "gpt3"])
@pytest.mark.parametrize("tensor", [1, 2, 8])
def test_ranks_hold_the_model(model: Transformer, tensor: int) -> None:
    """The ranks' parameters add up to the published ones: padding more, norms and biases shared.

    Row-parallel biases, norms and positions stand on every rank, columns are cut.
    """
    cut = shard(tensor, 2048)
    copied = model.hidden * ((4 if model.norm == "layer" else 2) + (2 if model.bias else 0))
    copied = copied * model.layers + model.hidden * (2 if model.norm == "layer" else 1)
    copied += model.max_positions * model.hidden
    padding = (cut.padded_vocab(model.vocab) - model.vocab) * model.hidden
    padding *= 1 if model.tied_embeddings else 2
    held = tensor * sum(layer.parameters for layer in layers_of(model, cut))
    assert held == parameter_count(model) + padding + (tensor - 1) * copied


def test_tied_head_on_another_stage_has_a_copy() -> None:
    assert layers_of(GPT3, shard(1, 2048))[-1].parameters == 2 * 12288
    cut = shard(1, 2048, pipeline=4)
    assert layers_of(GPT3, cut)[-1].parameters == 2 * 12288 + 50304 * 12288


def gemm_flops(layers: tuple[Layer, ...], phase: str) -> float:
    """Sum the FLOPs of the GEMMs and fused attention of one phase."""
    return sum(
        op.flops
        for layer in layers
        for module in layer.modules
        for op in getattr(module, phase)
        if op.kind in ("gemm", "attention")
    )


@pytest.mark.parametrize("tensor", [1, 4])
@pytest.mark.parametrize("attention", ["unfused", "flash2"])
def test_flops_of_ops_equal_closed_form(tensor: int, attention: str) -> None:
    """Matrix products 2 N s forward, twice that backward; attention 2 s^2 h causal, 2 or 2.5 x."""
    model = LLAMA2_70B
    cut = shard(tensor, kernels=Kernels(attention=attention))  # type: ignore[arg-type]
    layers = layers_of(model, cut)
    vocab = cut.padded_vocab(model.vocab)
    matrices = model.layers * block_matrix_parameters(model) + vocab * model.hidden
    dense = 2.0 * matrices * 4096 / tensor
    scores = model.layers * 2.0 * 4096**2 * model.heads * model.head_dim / tensor
    more = 2.0 if attention == "unfused" else 2.5
    assert gemm_flops(layers, "forward") == pytest.approx(dense + scores, rel=1e-12)
    assert gemm_flops(layers, "dgrad") == pytest.approx(dense + more * scores, rel=1e-12)
    assert gemm_flops(layers, "wgrad") == pytest.approx(dense, rel=1e-12)


def test_model_flops_are_those_of_the_unfused_ops() -> None:
    """Where nothing is recomputed and no padding exists, MFU's FLOPs are the ops' FLOPs."""
    layers = layers_of(LLAMA2_70B, shard(1, kernels=Kernels(attention="unfused")))
    total = sum(gemm_flops(layers, phase) for phase in ("forward", "dgrad", "wgrad"))
    assert model_flops_per_sample(LLAMA2_70B, 4096) == pytest.approx(total, rel=1e-12)


def test_bytes_per_parameter_layouts() -> None:
    """18 unsharded, 6 + 12/d under ZeRO-1, 2 + 16/d under ZeRO-2, 16/d fully sharded."""
    mixed = Precision()
    totals = [sum(bytes_per_parameter(mixed, zero, 16).values()) for zero in range(4)]
    assert totals == pytest.approx([18, 6 + 12 / 16, 2 + 16 / 16, 16 / 16])
    half = Precision(gradients="bf16")
    totals = [sum(bytes_per_parameter(half, zero, 16).values()) for zero in range(4)]
    assert totals == pytest.approx([16, 4 + 12 / 16, 2 + 14 / 16, 16 / 16])
    kept = Precision(gradient_copies=True)
    totals = [sum(bytes_per_parameter(kept, zero, 16).values()) for zero in range(4)]
    assert totals == pytest.approx([20, 8 + 12 / 16, 2 + 16 / 16, 16 / 16])
    single = Precision(compute="tf32")
    assert sum(bytes_per_parameter(single, 0, 16).values()) == 16


def test_table_bytes_per_parameter() -> None:
    rowwise = Precision(embedding="fp16", optimizer="adagrad_rowwise")
    assert table_bytes_per_parameter(rowwise, 128) == 2 + 4 / 128
