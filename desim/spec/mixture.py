"""Mixture of experts and multi-head latent attention: parts of a transformer's description."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt

from desim.spec.base import PositiveInt, Spec

Count = Annotated[int, Ge(0)]


class Mixture(Spec):
    """Experts in place of the MLP: each token goes to the `top_k` that a router chooses."""

    experts: PositiveInt
    """Routed experts of a layer."""
    top_k: PositiveInt
    """Experts that each token visits."""
    ffn: PositiveInt
    """Width between the matrices of one expert."""
    shared_ffn: Count = 0
    """Width of the expert that every token visits (all shared experts together); 0: none."""
    shared_gate: bool = False
    """Whether a learned gate, one value per token, scales the shared expert (Qwen2-MoE)."""
    dense_layers: Count = 0
    """First layers that have an MLP of width `workload.model.ffn` instead of experts."""
    every: PositiveInt = 1
    """After those, one layer in so many has experts, the last of each group, and the others have an
    MLP (Llama 4 Maverick: 2; Hugging Face's `interleave_moe_layer_step`, `decoder_sparse_step`)."""
    capacity_factor: Annotated[float, Gt(0)] | None = None
    """Tokens that an expert takes over the mean: buffers of one size, padded, and what is over is
    dropped. None: every token is taken (dropless), and the host reads the counts."""
    imbalance: Annotated[float, Ge(1)] = 1.0
    """Tokens of the busiest rank of an expert group over the mean, without a capacity; every rank
    is given the work of the busiest, for which the others wait."""


class Latent(Spec):
    """Multi-head latent attention: queries, keys and values from compressed vectors.

    DeepSeek-AI 2024 (arXiv:2405.04434), section 2.1.
    """

    q_rank: PositiveInt | None = None
    """Width of the compressed query; None: queries come from the residual stream directly."""
    kv_rank: PositiveInt
    """Width of the compressed keys and values."""
    nope_head_dim: PositiveInt
    """Width of a head's query and key without positions."""
    rope_head_dim: PositiveInt
    """Width of the part that carries rotary positions; the key's is shared by all heads."""
    value_head_dim: PositiveInt
    """Width of a head's value."""

    @property
    def query_head_dim(self) -> int:
        """Width of a head's query and key."""
        return self.nope_head_dim + self.rope_head_dim
