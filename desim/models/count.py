"""What is published about a model: its parameters, and the FLOPs that MFU counts."""

from __future__ import annotations

from itertools import pairwise

from desim.spec.workload import Dlrm, Lora, Transformer, Workload

_TRAINING = 3  # a backward pass does twice the GEMM work of a forward pass


def parameter_count(model: Transformer | Dlrm) -> int:
    """Return the exact number of parameters, without padding."""
    if isinstance(model, Dlrm):
        return table_parameters(model) + dense_parameters(model)
    return (
        model.layers * block_parameters(model)
        + model.vocab * model.hidden * (1 if model.tied_embeddings else 2)
        + (model.max_positions * model.hidden if model.position == "learned" else 0)
        + norm_parameters(model)
    )


def norm_parameters(model: Transformer) -> int:
    """Return the parameters of one norm: a scale, and an offset for LayerNorm."""
    return model.hidden * (2 if model.norm == "layer" else 1)


def block_matrix_parameters(model: Transformer) -> int:
    """Return the parameters of one block that stand in matrix products."""
    width = (2 * model.heads + 2 * model.kv_heads) * model.head_dim
    return model.hidden * width + (3 if model.gated else 2) * model.hidden * model.ffn


def block_parameters(model: Transformer) -> int:
    """Return the parameters of one block: matrices, biases and two norms."""
    bias = 0
    if model.bias:
        packed = (model.heads + 2 * model.kv_heads) * model.head_dim
        bias = packed + 2 * model.hidden + (2 if model.gated else 1) * model.ffn
    return block_matrix_parameters(model) + bias + 2 * norm_parameters(model)


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


def model_flops_per_sample(model: Transformer | Dlrm, sequence_length: int) -> float:
    """Return the FLOPs of training on one sample that MFU counts (design.md, section 6).

    A transformer: per token 6 x parameters in matrix products (LM head in, embedding look-up out)
    + 12 L h s of attention, h being heads x head dimension, halved for a causal mask (PaLM,
    arXiv:2204.02311, appendix B, there without the halving). A recommendation model: three times
    its forward GEMMs.
    """
    if isinstance(model, Dlrm):
        return _TRAINING * dlrm_forward_flops(model)
    matrices = model.layers * block_matrix_parameters(model) + model.vocab * model.hidden
    attention = 12.0 * model.layers * model.heads * model.head_dim * sequence_length
    if model.causal:
        attention /= 2
    return sequence_length * (6.0 * matrices + attention)


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


def flops_per_sample(workload: Workload) -> float:
    """Return the FLOPs of one sample that MFU counts, for the task that is run.

    Frozen weights do two thirds of the work of trained ones: their own gradient is not computed.
    """
    model, lora = workload.model, workload.adapters
    total = model_flops_per_sample(model, workload.sequence_length)
    if lora is None or isinstance(model, Dlrm):
        return total
    matrices = model.layers * block_matrix_parameters(model) + model.vocab * model.hidden
    change = 6.0 * adapter_parameters(model, lora) - 2.0 * matrices
    return total + workload.sequence_length * change
