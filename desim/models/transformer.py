"""A decoder-only transformer as layers on one rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

from desim.models.attention import attention_modules
from desim.models.chunk import chunk_layer
from desim.models.elementwise import norm, residual
from desim.models.head import embedding_layer, head_layer
from desim.models.mla import latent_modules
from desim.models.mlp import mlp_modules
from desim.models.moe import mixture_modules
from desim.models.op import Layer

if TYPE_CHECKING:
    from desim.models.shard import Shard
    from desim.spec.mixture import Mixture
    from desim.spec.workload import Transformer


def build_transformer(model: Transformer, shard: Shard) -> tuple[Layer, ...]:
    """Return the embedding layer, the blocks (one object per kind, repeated) and the head layer.

    A mixture has its dense blocks first, and between those with experts where it says so. That the
    shard divides the model is a rule of the spec (`spec.rules.model`).
    """
    return (embedding_layer(model, shard), *_blocks(model, shard), head_layer(model, shard))


def _blocks(model: Transformer, shard: Shard) -> list[Layer]:
    """The blocks, one object for each kind: the recipe may leave out the first and the last."""
    first = min(shard.precision.bf16_first_layers, model.layers)
    last = min(shard.precision.bf16_last_layers, model.layers - first)
    known: dict[tuple[bool, bool], Layer] = {}
    blocks = []
    for number in range(model.layers):
        plain = shard.recipe is not None and not first <= number < model.layers - last
        kind = (model.has_experts(number), plain)
        if kind not in known:
            cut = shard.plain if plain else shard
            known[kind] = transformer_block(model, cut, model.moe if kind[0] else None)
        blocks.append(known[kind])
    return blocks


def transformer_block(model: Transformer, shard: Shard, moe: Mixture | None = None) -> Layer:
    """Return one block: pre-norm attention and pre-norm MLP around the residual stream.

    With `moe` experts stand in place of the MLP.
    """
    mla = model.mla
    attention = latent_modules(model, mla, shard) if mla else attention_modules(model, shard)
    modules = (
        norm("norm1", model, shard, before_linear=mla is None),
        *attention,
        residual("residual1", model, shard),
        norm("norm2", model, shard, before_linear=moe is None),
        *(mixture_modules(model, moe, shard) if moe else mlp_modules(model, shard)),
        residual("residual2", model, shard),
    )
    size = shard.split_tokens * model.hidden * shard.element_bytes
    layer = Layer("block", modules, input_bytes=size)
    return chunk_layer(layer, shard) if shard.chunked else layer
