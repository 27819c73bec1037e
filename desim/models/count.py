"""What is published about a model: its parameters, and the FLOPs that MFU counts."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from desim.spec.workload import Dlrm, Lora, Transformer, Workload

if TYPE_CHECKING:
    from desim.spec.mixture import Mixture

_TRAINING = 3  # a backward pass does twice the GEMM work of a forward pass


def parameter_count(model: Transformer | Dlrm) -> int:
    """Return the exact number of parameters, without padding."""
    if isinstance(model, Dlrm):
        return table_parameters(model) + dense_parameters(model)
    mixtures = model.layers - model.dense_layers
    return (
        model.dense_layers * block_parameters(model)
        + mixtures * (mixture_block_parameters(model) if mixtures else 0)
        + model.vocab * model.hidden * (1 if model.tied_embeddings else 2)
        + (model.max_positions * model.hidden if model.position == "learned" else 0)
        + norm_parameters(model)
    )


def active_parameter_count(model: Transformer | Dlrm) -> int:
    """Return the parameters that one token meets: of the experts, those that it visits."""
    count = parameter_count(model)
    if isinstance(model, Dlrm) or model.moe is None:
        return count
    idle = (model.moe.experts - model.moe.top_k) * expert_parameters(model, model.moe)
    return count - (model.layers - model.dense_layers) * idle


def norm_parameters(model: Transformer) -> int:
    """Return the parameters of one norm: a scale, and an offset for LayerNorm."""
    return model.hidden * (2 if model.norm == "layer" else 1)


def attention_matrix_parameters(model: Transformer) -> int:
    """Return the parameters of one block's attention that stand in matrix products."""
    mla = model.mla
    if mla is None:
        return model.hidden * (2 * model.heads + 2 * model.kv_heads) * model.head_dim
    queries = model.heads * mla.query_head_dim
    query = mla.q_rank * (model.hidden + queries) if mla.q_rank else model.hidden * queries
    down = model.hidden * (mla.kv_rank + mla.rope_head_dim)
    up = mla.kv_rank * model.heads * (mla.nope_head_dim + mla.value_head_dim)
    return query + down + up + model.heads * mla.value_head_dim * model.hidden


def block_matrix_parameters(model: Transformer) -> int:
    """Return the parameters of one dense block that stand in matrix products."""
    mlp = (3 if model.gated else 2) * model.hidden * model.ffn
    return attention_matrix_parameters(model) + mlp


def _inner_norm_parameters(model: Transformer) -> int:
    """Return the parameters of the norms inside attention."""
    scale = 2 if model.norm == "layer" else 1
    if model.mla:
        return scale * ((model.mla.q_rank or 0) + model.mla.kv_rank)
    return scale * 2 * model.head_dim if model.qk_norm else 0


def _attention_bias_parameters(model: Transformer) -> int:
    if not model.bias:
        return 0
    return (model.heads + 2 * model.kv_heads) * model.head_dim + model.hidden


def _attention_parameters(model: Transformer) -> int:
    """Return the parameters of one block's attention and both of its norms."""
    norms = 2 * norm_parameters(model) + _inner_norm_parameters(model)
    return attention_matrix_parameters(model) + _attention_bias_parameters(model) + norms


def block_parameters(model: Transformer) -> int:
    """Return the parameters of one dense block: matrices, biases and norms."""
    return _attention_parameters(model) + _mlp_parameters(model, model.ffn)


def _mlp_parameters(model: Transformer, ffn: int) -> int:
    bias = model.hidden + (2 if model.gated else 1) * ffn if model.bias else 0
    return (3 if model.gated else 2) * model.hidden * ffn + bias


def expert_parameters(model: Transformer, moe: Mixture) -> int:
    """Return the parameters of one routed expert."""
    return _mlp_parameters(model, moe.ffn)


def mixture_block_parameters(model: Transformer) -> int:
    """Return the parameters of one block with experts: all of them, and the router."""
    moe = model.moe
    assert moe is not None, "the model has no experts"
    shared = _mlp_parameters(model, moe.shared_ffn) if moe.shared_ffn else 0
    gate = model.hidden if moe.shared_gate and moe.shared_ffn else 0
    experts = moe.experts * (expert_parameters(model, moe) + model.hidden)
    return _attention_parameters(model) + experts + shared + gate


def _mixture_matrix_parameters(model: Transformer, moe: Mixture) -> int:
    """Return the parameters of one block with experts in the matrix products of one token."""
    widths = moe.top_k * moe.ffn + moe.shared_ffn
    mlp = (3 if model.gated else 2) * model.hidden * widths
    return attention_matrix_parameters(model) + mlp + model.hidden * moe.experts


def active_matrix_parameters(model: Transformer) -> int:
    """Return the parameters in the matrix products that one token goes through, LM head in."""
    dense = model.dense_layers * block_matrix_parameters(model)
    mixtures = 0
    if model.moe:
        each = _mixture_matrix_parameters(model, model.moe)
        mixtures = (model.layers - model.dense_layers) * each
    return dense + mixtures + model.vocab * model.hidden


def table_parameters(model: Dlrm) -> int:
    """Return the parameters of all embedding tables."""
    return model.tables * model.rows * model.embedding_dim


def dense_parameters(model: Dlrm) -> int:
    """Return the parameters of both MLPs."""
    return sum(
        inputs * outputs + (outputs if model.bias else 0)
        for widths in (model.bottom_mlp, model.top_mlp)
        for inputs, outputs in pairwise(widths)
    )


def model_flops_per_sample(
    model: Transformer | Dlrm, sequence_length: int, attention_share: float = 1.0
) -> float:
    """Return the FLOPs of training on one sample that MFU counts.

    A transformer: per token 6 x parameters in matrix products (LM head in, embedding look-up out)
    + 12 L h s of attention, h being heads x head dimension (the mean of a key's and a value's),
    halved for a causal mask (PaLM, arXiv:2204.02311, appendix B, there without the halving). Of
    experts those count that a token visits, of attention the `attention_share` that documents leave
    of a sequence's scores. A recommendation model: three times its forward GEMMs.
    """
    if isinstance(model, Dlrm):
        return _TRAINING * dlrm_forward_flops(model)
    matrices = active_matrix_parameters(model)
    widths = 2 * model.head_dim
    if model.mla:
        widths = model.mla.query_head_dim + model.mla.value_head_dim
    attention = 6.0 * model.layers * model.heads * widths * sequence_length
    if model.causal:
        attention /= 2
    return sequence_length * (6.0 * matrices + attention * attention_share)


def dlrm_forward_flops(model: Dlrm) -> float:
    """Return the FLOPs of the GEMMs of one sample's forward pass."""
    flops = sum(
        2.0 * inputs * outputs
        for widths in (model.bottom_mlp, model.top_mlp)
        for inputs, outputs in pairwise(widths)
    )
    if model.interaction == "dot":
        flops += 2.0 * (model.tables + 1) ** 2 * model.embedding_dim
    return flops


def adapter_parameters(model: Transformer, lora: Lora) -> int:
    """Return the parameters of all adapters of a model."""
    attention = model.heads * model.head_dim
    shapes = {
        "qkv": (model.hidden, attention + 2 * model.kv_heads * model.head_dim),
        "projection": (attention, model.hidden),
        "up": (model.hidden, model.ffn * (2 if model.gated else 1)),
        "down": (model.ffn, model.hidden),
    }
    return model.layers * lora.rank * sum(sum(shapes[name]) for name in lora.targets)


def flops_per_sample(workload: Workload, attention_share: float = 1.0) -> float:
    """Return the FLOPs of one sample that MFU counts, for the task that is run.

    Frozen weights do two thirds of the work of trained ones: their own gradient is not computed.
    """
    model, lora = workload.model, workload.adapters
    total = model_flops_per_sample(model, workload.sequence_length, attention_share)
    if lora is None or isinstance(model, Dlrm):
        return total
    matrices = model.layers * block_matrix_parameters(model) + model.vocab * model.hidden
    change = 6.0 * adapter_parameters(model, lora) - 2.0 * matrices
    return total + workload.sequence_length * change
