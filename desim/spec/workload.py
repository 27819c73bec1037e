"""Models and the task they are put to."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Lt
from pydantic import Field

from desim.spec.base import PositiveInt, Spec
from desim.spec.documents import Documents
from desim.spec.hardware import Dtype
from desim.spec.mixture import Latent, Mixture


class Transformer(Spec):
    """A decoder-only transformer, dense or a mixture of experts."""

    family: Literal["transformer"]
    name: str
    """What reports call it."""
    source: str
    """Where its numbers are published."""
    layers: PositiveInt
    """Transformer blocks; embedding and head come on top."""
    hidden: PositiveInt
    """Width of the residual stream."""
    heads: PositiveInt
    """Query heads."""
    kv_heads: PositiveInt
    """Key and value heads: fewer than `heads` for grouped-query attention."""
    head_dim: PositiveInt
    """Width of one head."""
    ffn: PositiveInt
    """Width between the matrices of the MLP."""
    gated: bool
    """Whether the MLP has a gate matrix beside the up matrix (SwiGLU)."""
    activation: Literal["silu", "gelu", "relu2"] | None = None
    """Function inside the MLP (`relu2`: squared ReLU); silu where gated, else gelu, if left out."""
    vocab: PositiveInt
    """Rows of the embedding table; padded where the tensor group cannot share them."""
    norm: Literal["rms", "layer"] = "rms"
    """RMSNorm or LayerNorm."""
    position: Literal["rope", "learned", "alibi", "none"] = "rope"
    """How positions enter."""
    max_positions: Annotated[int, Ge(0)] = 0
    """Rows of the learned position table; 0 where positions are not learned."""
    bias: bool = False
    """Whether linear layers have biases."""
    tied_embeddings: bool = False
    """Whether the head uses the embedding's table."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share that is dropped; 0 runs no dropout kernels."""
    causal: bool = True
    """Whether a token attends to earlier ones only."""
    qk_norm: bool = False
    """Whether every head's query and key are normalised (Qwen3)."""
    moe: Mixture | None = None
    """Experts in place of the MLP."""
    mla: Latent | None = None
    """Multi-head latent attention in place of separate queries, keys and values."""

    @property
    def dense_layers(self) -> int:
        """Number of layers with an MLP: all of a dense model; of a mixture its first, and more."""
        return self.layers - sum(self.has_experts(number) for number in range(self.layers))

    def has_experts(self, number: int) -> bool:
        """Whether a layer, counted from 0, has experts in place of an MLP."""
        if self.moe is None:
            return False
        after = number - self.moe.dense_layers
        return after >= 0 and (after + 1) % self.moe.every == 0


class Dlrm(Spec):
    """A deep learning recommendation model: embedding tables, two MLPs, an interaction."""

    family: Literal["dlrm"]
    name: str
    """What reports call it."""
    source: str
    """Where its numbers are published."""
    tables: PositiveInt
    """Embedding tables."""
    rows: PositiveInt
    """Rows of each table."""
    embedding_dim: PositiveInt
    """Width of a row."""
    pooling: PositiveInt
    """Rows looked up and summed per table and sample."""
    bottom_mlp: tuple[PositiveInt, ...] = Field(strict=False, min_length=2)
    """Widths from the dense features to the last bottom layer."""
    top_mlp: tuple[PositiveInt, ...] = Field(strict=False, min_length=2)
    """Widths from the interaction's output to the last top layer."""
    interaction: Literal["dot", "concat"] = "concat"
    """Dot products of all pairs of vectors, or their concatenation."""
    bias: bool = False
    """Whether linear layers have biases."""


Model = Annotated[Transformer | Dlrm, Field(discriminator="family")]


class Precision(Spec):
    """Number formats of a run."""

    compute: Dtype = "bf16"
    """Format of matrix products and activations."""
    gradients: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Format in which gradients are accumulated and reduced."""
    optimizer: Literal[
        "adam_fp32",
        "adam_bf16_states",
        "adam_fp8_states",
        "adam_bf16",
        "lion_fp32",
        "sgd_fp32",
        "adagrad_rowwise",
    ] = "adam_fp32"
    """Optimizer and the format of its states: Adam with both moments in fp32, bf16 or fp8 beside an
    fp32 copy of the parameters (Megatron's precision-aware optimizer), all in bf16 without a copy
    (`adam_bf16`); Lion with one momentum."""
    embedding: Dtype | None = None
    """Format of embedding tables; the compute format where left out."""
    reduce: Literal["fp32", "bf16", "fp16"] | None = None
    """Format in which gradients are communicated; that of `gradients` where left out."""
    gradient_copies: bool = False
    """Whether gradients also stay in the compute format beside the wider ones to which they are
    added (DeepSpeed's BF16 optimizer)."""
    recipe: Literal["none", "delayed", "tensorwise", "rowwise", "blockwise", "mxfp8", "nvfp4"] = (
        "none"
    )
    """Linear layers of the blocks in fp8 (`nvfp4`: fp4) while `compute` stays in 16 bits. One scale
    per tensor from earlier steps (`delayed`) or from the tensor itself (`tensorwise`), per row
    (torchao), per block of 128 (DeepSeek), of 32 (`mxfp8`), of 16 (`nvfp4`)."""
    hadamard: bool = True
    """Whether `nvfp4` transforms the columns of activations and gradients by a random Hadamard
    matrix (Transformer Engine does unless `NVTE_NVFP4_DISABLE_RHT` is set)."""
    low_precision_parameters: bool = False
    """Whether weights of the recipe's layers are kept and gathered in its format."""
    bf16_first_layers: Annotated[int, Ge(0)] = 0
    """First blocks that the recipe leaves in the compute format."""
    bf16_last_layers: Annotated[int, Ge(0)] = 0
    """Last blocks that the recipe leaves in the compute format."""


class Lora(Spec):
    """Low-rank adapters beside frozen linear layers (Hu et al. 2021, arXiv 2106.09685)."""

    rank: PositiveInt = 16
    """Width of the adapters."""
    targets: tuple[Literal["qkv", "projection", "up", "down"], ...] = Field(
        default=("qkv", "projection", "up", "down"), strict=False, min_length=1
    )
    """Linear layers of a block that have one; `up` includes the gate."""


class Workload(Spec):
    """A model and its batch."""

    model: Model
    """A name of the catalogue, the path of a file, or the mapping."""
    task: Literal["pretrain", "lora"] = "pretrain"
    """What is run: training of all parameters (full finetuning too), or of low-rank adapters beside
    frozen weights."""
    lora: Lora | None = None
    """The adapters of `task: lora`; those of the defaults where left out."""
    sequence_length: Annotated[int, Ge(1)] = 1
    """Tokens per sequence; 1 for a model whose sample is not a sequence."""
    global_batch: PositiveInt
    """Samples (sequences) per step."""
    micro_batch: PositiveInt
    """Samples per micro-batch on one data-parallel rank."""
    precision: Precision = Precision()
    """Number formats."""
    documents: Documents | None = None
    """Documents that sequences are packed of; left out: a sequence is one document."""

    @property
    def adapters(self) -> Lora | None:
        """The adapters that are trained, None where all parameters are."""
        return (self.lora or Lora()) if self.task == "lora" else None
