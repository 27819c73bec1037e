"""Models and the task they are put to."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Lt
from pydantic import Field

from desim.spec.base import PositiveInt, Spec
from desim.spec.hardware import Dtype


class Transformer(Spec):
    """A dense decoder-only transformer."""

    family: Literal["transformer"]
    name: str
    source: str
    layers: PositiveInt
    hidden: PositiveInt
    heads: PositiveInt
    kv_heads: PositiveInt
    head_dim: PositiveInt
    ffn: PositiveInt
    gated: bool
    """Whether the MLP has a gate matrix beside the up matrix (SwiGLU)."""
    vocab: PositiveInt
    norm: Literal["rms", "layer"] = "rms"
    position: Literal["rope", "learned", "alibi", "none"] = "rope"
    max_positions: Annotated[int, Ge(0)] = 0
    """Rows of the learned position table; 0 where positions are not learned."""
    bias: bool = False
    tied_embeddings: bool = False
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    causal: bool = True


class Dlrm(Spec):
    """A deep learning recommendation model: embedding tables, two MLPs, an interaction."""

    family: Literal["dlrm"]
    name: str
    source: str
    tables: PositiveInt
    rows: PositiveInt
    """Rows of each table."""
    embedding_dim: PositiveInt
    pooling: PositiveInt
    """Rows looked up and summed per table and sample."""
    bottom_mlp: tuple[PositiveInt, ...] = Field(strict=False)
    """Widths from the dense features to the last bottom layer."""
    top_mlp: tuple[PositiveInt, ...] = Field(strict=False)
    """Widths from the interaction's output to the last top layer."""
    interaction: Literal["dot", "concat"] = "concat"
    bias: bool = False


Model = Annotated[Transformer | Dlrm, Field(discriminator="family")]


class Precision(Spec):
    """Number formats of a run."""

    compute: Dtype = "bf16"
    gradients: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Format in which gradients are accumulated and reduced."""
    optimizer: Literal["adam_fp32", "sgd_fp32", "adagrad_rowwise"] = "adam_fp32"
    embedding: Dtype | None = None
    """Format of embedding tables; the compute format where left out."""


class Workload(Spec):
    """A model and its batch."""

    model: Model
    task: Literal["pretrain"] = "pretrain"
    sequence_length: Annotated[int, Ge(1)] = 1
    """Tokens per sequence; 1 for a model whose sample is not a sequence."""
    global_batch: PositiveInt
    """Samples (sequences) per step."""
    micro_batch: PositiveInt
    """Samples per micro-batch on one data-parallel rank."""
    precision: Precision = Precision()
