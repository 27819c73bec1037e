"""The two ends of a transformer: the embedding layer, and the head with the loss.

Both tables are cut over the vocabulary, which is padded to a multiple of 128 per tensor rank. The
padding takes memory and time; it is no part of the published parameter count.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from desim.models import passes
from desim.models.elementwise import dropout_ops, elementwise_op, norm, pass_ops
from desim.models.linear import column_linear
from desim.models.op import Comm, Layer, Module, Op

if TYPE_CHECKING:
    from desim.models.shard import Shard
    from desim.spec.workload import Transformer

_TOKEN_BYTES = 8  # token ids and labels are int64


def embedding_layer(model: Transformer, shard: Shard) -> Layer:
    """Return the layer that turns token ids into the residual stream.

    Its `input_bytes` are the token ids. Dropout follows on the part of this rank.
    """
    modules = [_lookup(model, shard)]
    if model.position == "learned":
        modules.append(_positions(model, shard))
    if model.dropout:
        elements = shard.split_tokens * model.hidden
        modules.append(
            Module(
                "embedding_dropout",
                forward=dropout_ops("embedding_dropout", shard, elements, backward=False),
                dgrad=dropout_ops("embedding_dropout", shard, elements, backward=True),
                saved_bytes=elements,
            )
        )
    return Layer("embedding", tuple(modules), input_bytes=shard.tokens * _TOKEN_BYTES)


def _lookup(model: Transformer, shard: Shard) -> Module:
    """A rank looks up the tokens of its part of the vocabulary; the others are zero and summed.

    PyTorch's gradient is dense: the table's gradient is cleared, rows are added to it, and it is
    added to the main gradients.
    """
    width = shard.element_bytes
    elements = float(shard.tokens * model.hidden)
    weights = shard.padded_vocab(model.vocab) // shard.tensor * model.hidden
    reduce: tuple[Comm, ...] = ()
    gather: tuple[Comm, ...] = ()
    if shard.sequence_parallel:
        reduce = (Comm("tp", "reduce_scatter", elements * width, "embedding_output"),)
        gather = (Comm("tp", "all_gather", elements * width, "embedding_dy"),)
    elif shard.tensor > 1:
        reduce = (Comm("tp", "all_reduce", elements * width, "embedding_output"),)
    return Module(
        "embedding",
        forward=(elementwise_op("embedding", "embedding", shard.dtype, elements, width, width, 0),),
        wgrad=(
            elementwise_op("embedding_clear", "copy", shard.dtype, weights, 0, width, 0),
            elementwise_op(
                "embedding_scatter", "embedding", shard.dtype, elements, 2 * width, width
            ),
            *_accumulate("embedding_accumulate", shard, weights),
        ),
        parameters=weights,
        saved_bytes=shard.tokens * _TOKEN_BYTES,
        weight_gradient_bytes=weights * width,
        post_forward=reduce,
        pre_backward=gather,
    )


def _positions(model: Transformer, shard: Shard) -> Module:
    """Learned positions: one row per place, added to the residual stream."""
    width = shard.element_bytes
    elements = shard.split_tokens * model.hidden
    rows = min(model.max_positions, shard.queries) * model.hidden
    return Module(
        "positions",
        forward=(elementwise_op("positions", "residual", shard.dtype, elements, 2 * width, width),),
        wgrad=(
            elementwise_op("positions_sum", "copy", shard.dtype, elements, width, 0),
            *_accumulate("positions_accumulate", shard, rows),
        ),
        parameters=model.max_positions * model.hidden,
    )


def _accumulate(name: str, shard: Shard, elements: float) -> tuple[Op, ...]:
    """Return the sum with the main gradients, where there are such (see `plan.accumulation`)."""
    if not shard.main_gradients or shard.autograd_gradients:
        return ()
    read = shard.element_bytes + shard.gradient_bytes
    return (elementwise_op(name, "copy", "fp32", elements, read, shard.gradient_bytes),)


def head_layer(model: Transformer, shard: Shard) -> Layer:
    """Return the last norm, the LM head and the cross-entropy over the split vocabulary.

    A tied head has parameters of its own only where it stands on another stage than the embedding.
    """
    columns = shard.padded_vocab(model.vocab) // shard.tensor
    owns = not model.tied_embeddings or shard.pipeline > 1
    plain = shard.plain
    head = column_linear("lm_head", plain, model.hidden, columns, bias=False, owns_weight=owns)
    if shard.kernels.fusion == "te":
        # Megatron-LM's own layer, which makes its placeholder gradient anew each time.
        size = columns * model.hidden * shard.element_bytes
        head = replace(head, weight_gradient_bytes=size)
    modules = (norm("final_norm", model, shard), head, _cross_entropy(shard, columns))
    size = shard.split_tokens * model.hidden * shard.element_bytes
    return Layer("head", modules, input_bytes=size)


def _cross_entropy(shard: Shard, columns: int) -> Module:
    """Cross-entropy; over the tensor group maximum, predicted logit and sum are all-reduced.

    The unfused chain keeps the softmax in fp32 (4 B per logit, Korthikanti et al. 2022, section
    4.3), a fused kernel writes the gradient over the logits (their width), a compiled chain keeps
    the logits. Beside what is saved there are: while Megatron-LM's chain converts, the logits, and
    then their gradient; in eager PyTorch the logits and their fp32 copy, and then the gradients of
    the log-softmax and of its input in fp32. Each metric computes the loss again by
    PyTorch's calls.
    """
    elements = float(shard.tokens * columns)
    kernels = shard.kernels
    fusion: str = kernels.fusion
    if kernels.cross_entropy in ("eager", "fused"):
        fusion = kernels.cross_entropy
    elif (kernels.fusion, kernels.cross_entropy) == ("te", "unfused"):
        fusion = "apex"
    chain = passes.CROSS_ENTROPY[fusion]
    metric = passes.CROSS_ENTROPY["eager"].forward * kernels.loss_metrics
    width = shard.element_bytes
    forward: tuple[float, ...]
    backward: tuple[float, ...]
    saved, forward, backward = {
        "te": (width, (), ()),
        "fused": (width, (), ()),
        "compile": (width, (), (width,)),
        "apex": (4.0, (width,), (width,)),
        "eager": (4.0, (width, 4.0), (4.0, 4.0)),
    }[fusion]
    reduce: tuple[Comm, ...] = ()
    if shard.tensor > 1:
        reduce = tuple(
            Comm("tp", "all_reduce", shard.tokens * 4.0, f"loss_{part}")
            for part in ("max", "logit", "sum")
        )
    return Module(
        "cross_entropy",
        forward=(
            *pass_ops("cross_entropy", "cross_entropy", shard, elements, chain.forward),
            *pass_ops("loss_metric", "cross_entropy", shard, elements, metric),
        ),
        dgrad=pass_ops("cross_entropy", "cross_entropy", shard, elements, chain.dgrad),
        saved_bytes=elements * saved,
        forward_bytes=tuple(elements * each for each in forward),
        backward_bytes=tuple(elements * each for each in backward),
        post_forward=reduce,
    )
