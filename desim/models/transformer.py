"""A decoder-only transformer as layers on one rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

from desim.errors import Mistake, SpecError
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

    A mixture has its dense blocks first.

    Raises SpecError where the model cannot be cut as the shard says.
    """
    mistakes = transformer_mistakes(model, shard)
    if mistakes:
        raise SpecError(mistakes)
    return (embedding_layer(model, shard), *_blocks(model, shard), head_layer(model, shard))


def _blocks(model: Transformer, shard: Shard) -> list[Layer]:
    """The blocks, one object for each kind: the recipe may leave out the first and the last."""
    first = min(shard.precision.bf16_first_layers, model.layers)
    last = min(shard.precision.bf16_last_layers, model.layers - first)
    known: dict[tuple[bool, bool], Layer] = {}
    blocks = []
    for number in range(model.layers):
        plain = shard.recipe is not None and not first <= number < model.layers - last
        kind = (number >= model.dense_layers, plain)
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


def transformer_mistakes(model: Transformer, shard: Shard) -> list[Mistake]:
    """Return every reason why the model cannot be cut as the shard says."""
    mistakes = []
    for what, size in _cut_by_tensor(model):
        if size % shard.tensor:
            rule = f"must divide the model's {what}: {size} = {size // shard.tensor} x "
            rule += f"{shard.tensor} + {size % shard.tensor}"
            mistakes.append(Mistake("parallel.tensor", rule, str(shard.tensor)))
    if model.kv_heads % shard.tensor and shard.tensor % model.kv_heads:
        rule = f"must divide the model's kv_heads ({model.kv_heads}) or be a multiple of it"
        mistakes.append(Mistake("parallel.tensor", rule, str(shard.tensor)))
    # Causal work is balanced by giving each context rank two chunks of the sequence.
    chunks = 2 * shard.context if shard.context > 1 else 1
    if shard.sequence_length % chunks:
        rule = f"the sequence of {shard.sequence_length} must split into 2 x context = {chunks}"
        mistakes.append(Mistake("parallel.context", rule, str(shard.context)))
    elif shard.queries % shard.split:
        rule = f"must divide the {shard.queries} tokens of a sequence on one context rank"
        mistakes.append(
            Mistake("parallel.tensor", rule, str(shard.tensor), "or set parallel.sequence: false")
        )
    if model.position == "learned" and model.max_positions < shard.sequence_length:
        rule = f"must not exceed the model's max_positions ({model.max_positions})"
        mistakes.append(Mistake("workload.sequence_length", rule, str(shard.sequence_length)))
    return mistakes


def _cut_by_tensor(model: Transformer) -> list[tuple[str, int]]:
    sizes = [("heads", model.heads)]
    if model.dense_layers:
        sizes.append(("ffn", model.ffn))
    if model.moe and model.moe.shared_ffn:
        sizes.append(("moe.shared_ffn", model.moe.shared_ffn))
    return sizes
