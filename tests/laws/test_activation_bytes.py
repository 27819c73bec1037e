"""Law: saved bytes of a block equal Korthikanti et al. 2022 (arXiv:2205.05198, table 2)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from desim.models.head import head_layer
from desim.models.op import Layer
from desim.models.shard import Shard
from desim.models.transformer import transformer_block
from desim.spec.policy import Kernels
from desim.spec.workload import Precision, Transformer


def gpt(heads: int, head_dim: int) -> Transformer:
    """Return the paper's layer: LayerNorm, GELU, four times as wide, dropout three times."""
    hidden = heads * head_dim
    return Transformer(
        family="transformer",
        name="gpt",
        source="test",
        layers=1,
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        ffn=4 * hidden,
        gated=False,
        vocab=1024,
        norm="layer",
        position="none",
        bias=True,
        dropout=0.1,
    )


def saved(block: Layer, recomputable: bool | None = None) -> float:
    """Sum what the modules keep: all, or those that selective recompute drops (or keeps)."""
    return sum(
        module.saved_bytes
        for module in block.modules
        if recomputable is None or ("core_attention" in module.recompute) is recomputable
    )


def cut(tensor: int, sequence: bool, batch: int, length: int, **kernels: str) -> Shard:
    chosen = Kernels(**{"attention": "unfused", "fusion": "apex", **kernels})  # type: ignore[arg-type]
    return Shard(tensor, sequence, 1, 1, batch, length, Precision(), chosen)


SIZES = {
    "batch": st.integers(1, 8),
    "length": st.integers(1, 64).map(lambda n: 128 * n),
    "heads_per_rank": st.integers(1, 16),
    "head_dim": st.sampled_from([64, 80, 96, 128, 256]),
    "tensor": st.sampled_from([1, 2, 4, 8]),
}


@given(**SIZES)
def test_paper_forms(
    batch: int, length: int, heads_per_rank: int, head_dim: int, tensor: int
) -> None:
    heads = tensor * heads_per_rank
    model = gpt(heads, head_dim)
    hidden = model.hidden
    unit = length * batch * hidden
    square = 5 * heads * length / hidden
    whole = transformer_block(model, cut(1, True, batch, length))
    assert saved(whole) == pytest.approx(unit * (34 + square), rel=1e-12)
    plain = transformer_block(model, cut(tensor, False, batch, length))
    assert saved(plain) == pytest.approx(
        unit * (10 + 24 / tensor + square / tensor) if tensor > 1 else unit * (34 + square),
        rel=1e-12,
    )
    split = transformer_block(model, cut(tensor, True, batch, length))
    assert saved(split) == pytest.approx(unit / tensor * (34 + square), rel=1e-12)
    assert saved(split, recomputable=False) == pytest.approx(unit / tensor * 34, rel=1e-12)


@given(**SIZES)
def test_flash_drops_the_square(
    batch: int, length: int, heads_per_rank: int, head_dim: int, tensor: int
) -> None:
    """A fused core keeps 4 B per query and head where the paper has 5 a s^2 b."""
    heads = tensor * heads_per_rank
    model = gpt(heads, head_dim)
    block = transformer_block(model, cut(tensor, True, batch, length, attention="flash2"))
    tokens = length * batch
    expected = tokens / tensor * (34 * model.hidden + 4 * heads)
    assert saved(block) == pytest.approx(expected, rel=1e-12)


@given(kv_share=st.sampled_from([1, 2, 4, 8]), context=st.sampled_from([1, 2, 4]), **SIZES)
def test_llama_form(
    batch: int,
    length: int,
    heads_per_rank: int,
    head_dim: int,
    tensor: int,
    kv_share: int,
    context: int,
) -> None:
    """Flash, GQA, SwiGLU, RMSNorm, no dropout, per token and cut by t.

    Norms 4h, inputs of QKV and gate/up 4h, Q K V 2d(a + 2k), lse 4a, projection input 2da, gate
    and up 4f, down input 2f.
    """
    kv_heads, heads = tensor * heads_per_rank, tensor * heads_per_rank * kv_share
    hidden, ffn = heads * head_dim, 3 * heads * head_dim
    model = gpt(heads, head_dim).model_copy(
        update={"kv_heads": kv_heads, "ffn": ffn, "gated": True, "norm": "rms", "dropout": 0.0}
    )
    kernels = Kernels(attention="flash2", fusion="te")
    shard = Shard(tensor, True, context, 1, batch, length, Precision(), kernels)
    per_token = 8 * hidden + 2 * head_dim * (heads + 2 * kv_heads)
    per_token += 4 * heads + 2 * head_dim * heads + 6 * ffn
    expected = length * batch / context / tensor * per_token
    assert saved(transformer_block(model, shard)) == pytest.approx(expected, rel=1e-12)


def test_full_recompute_keeps_the_input() -> None:
    """2 s b h, cut by t under sequence parallelism."""
    model = gpt(16, 64)
    assert transformer_block(model, cut(4, False, 2, 512)).input_bytes == 2 * 512 * 2 * 1024
    assert transformer_block(model, cut(4, True, 2, 512)).input_bytes == 512 * 2 * 1024 / 2


def test_cross_entropy_saves_four_bytes_per_logit() -> None:
    """Section 4.3: the output layer keeps 4sbh/t (1 + v/h) under sequence parallelism."""
    model = gpt(16, 64).model_copy(update={"vocab": 1024})
    head = head_layer(model, cut(4, True, 2, 512))
    unit = 512 * 2
    assert saved(head) == pytest.approx(4 * unit * 1024 / 4 * (1 + 1024 / 1024), rel=1e-12)
