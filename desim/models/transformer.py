"""A dense decoder-only transformer as layers on one rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

from desim.errors import Mistake, SpecError
from desim.models.attention import attention_modules
from desim.models.elementwise import norm, residual
from desim.models.head import embedding_layer, head_layer
from desim.models.mlp import mlp_modules
from desim.models.op import Layer

if TYPE_CHECKING:
    from desim.models.shard import Shard
    from desim.spec.workload import Transformer


def build_transformer(model: Transformer, shard: Shard) -> tuple[Layer, ...]:
    """Return the embedding layer, the blocks (one object, repeated) and the head layer.

    Raises SpecError where the model cannot be cut as the shard says.
    """
    mistakes = transformer_mistakes(model, shard)
    if mistakes:
        raise SpecError(mistakes)
    blocks = _blocks(model, shard)
    return (embedding_layer(model, shard), *blocks, head_layer(model, shard))


def _blocks(model: Transformer, shard: Shard) -> tuple[Layer, ...]:
    """The blocks, one object repeated but for those that the recipe leaves out."""
    block = transformer_block(model, shard)
    first = min(shard.precision.bf16_first_layers, model.layers)
    last = min(shard.precision.bf16_last_layers, model.layers - first)
    if shard.recipe is None or first + last == 0:
        return (block,) * model.layers
    plain = transformer_block(model, shard.plain)
    return (plain,) * first + (block,) * (model.layers - first - last) + (plain,) * last


def transformer_block(model: Transformer, shard: Shard) -> Layer:
    """Return one block: pre-norm attention and pre-norm MLP around the residual stream."""
    modules = (
        norm("norm1", model, shard, before_linear=True),
        *attention_modules(model, shard),
        residual("residual1", model, shard),
        norm("norm2", model, shard, before_linear=True),
        *mlp_modules(model, shard),
        residual("residual2", model, shard),
    )
    size = shard.split_tokens * model.hidden * shard.element_bytes
    return Layer("block", modules, input_bytes=size)


def transformer_mistakes(model: Transformer, shard: Shard) -> list[Mistake]:
    """Return every reason why the model cannot be cut as the shard says."""
    mistakes = []
    for what, size in (("heads", model.heads), ("ffn", model.ffn)):
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
