"""The part of a model that one rank holds, and the work that one micro-batch gives it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from desim.models.op import Packing
from desim.models.recipe import Recipe, recipe_of
from desim.models.width import element_bytes, element_dtype, stored_bytes
from desim.spec.policy import ContextExchange, Kernels
from desim.spec.workload import Lora, Precision

_TABLE_BLOCK = 128  # Megatron-LM pads the vocabulary to a multiple of 128 per tensor rank


def autograd_gradients(precision: Precision, kernels: Kernels) -> bool:
    """Whether gradients are autograd's own, in the format in which they are made."""
    same = stored_bytes(precision.gradients) == element_bytes(precision.compute)
    return same and not kernels.adds_in_products


@dataclass(frozen=True, slots=True)
class Shard:
    """How one rank's part of a model is cut, and with which formats and kernels it runs.

    `data_ranks` are the ranks over which embedding tables are spread (1: a copy on each).
    `pipeline` only decides whether a tied head needs a copy of the embedding of its own;
    `context_exchange` says how context ranks see each other's keys;
    `chunked` cuts tensor-parallel collectives in `chunks` (None: as many as there are tensor ranks)
    that travel by `chunk_exchange`.
    `any_layout`: the device's fp8 GEMMs take operands in any layout; Hopper's need both contiguous
    along k, Blackwell's do not (Transformer Engine user guide, FP8 current scaling). `adapters`:
    the low-rank adapters that are trained where the model is frozen. `expert` ranks share the
    experts of a layer, `expert_tensor` the matrices of every expert. `main_gradients`: gradients
    are added to buffers that last for the step; FSDP reduces those of each micro-batch instead.
    `context_inside` neighbours of a context group exchange heads where there are two levels;
    `context_place` is the rank's place in the sequence where each holds one chunk of it, None where
    causal work is balanced. `expert_load` are the tokens of this rank's experts over the mean,
    `busiest_load` those of the busiest rank of its expert group. Rows for experts travel in
    `expert_chunks`; `shared_beside`: beside the shared expert. `packing`: the documents that
    attention keeps to, None where a sequence is one.
    """

    tensor: int
    sequence: bool
    context: int
    data_ranks: int
    micro_batch: int
    sequence_length: int
    precision: Precision
    kernels: Kernels
    pipeline: int = 1
    context_exchange: ContextExchange = "all_gather"
    chunked: bool = False
    any_layout: bool = False
    adapters: Lora | None = None
    expert: int = 1
    expert_tensor: int = 1
    main_gradients: bool = True
    chunks: int | None = None
    chunk_exchange: str = "ring"
    context_inside: int = 1
    context_place: int | None = None
    expert_load: float = 1.0
    busiest_load: float = 1.0
    expert_chunks: int = 1
    shared_beside: bool = False
    packing: Packing | None = None

    @property
    def recipe(self) -> Recipe | None:
        """The low-precision recipe of linear layers, None where they run in the compute format."""
        return recipe_of(self.precision, self.kernels.fusion, any_layout=self.any_layout)

    @property
    def plain(self) -> Shard:
        """The same without a low-precision recipe."""
        if self.precision.recipe == "none":
            return self
        return replace(self, precision=self.precision.model_copy(update={"recipe": "none"}))

    @property
    def split(self) -> int:
        """Parts into which sequence parallelism cuts activations outside of GEMMs."""
        return self.tensor if self.sequence else 1

    @property
    def sequence_parallel(self) -> bool:
        """Whether activations outside of GEMMs are split over the tensor group."""
        return self.split > 1

    @property
    def queries(self) -> int:
        """Tokens of one sequence on this context rank."""
        return self.sequence_length // self.context

    @property
    def tokens(self) -> int:
        """Tokens of a micro-batch that a tensor group works on together."""
        return self.micro_batch * self.queries

    @property
    def split_tokens(self) -> float:
        """Tokens whose norms and residuals this rank computes."""
        return self.tokens / self.split

    @property
    def dtype(self) -> str:
        """Format of activations between GEMMs."""
        return element_dtype(self.precision.compute)

    @property
    def element_bytes(self) -> float:
        """Bytes of one activation or weight between GEMMs."""
        return element_bytes(self.precision.compute)

    @property
    def operand_bytes(self) -> float:
        """Bytes of one GEMM operand."""
        return stored_bytes(self.precision.compute)

    @property
    def autograd_gradients(self) -> bool:
        """Whether the first gradient of a step is kept as it is made and later ones are added.

        So PyTorch does with `.grad` of the parameter's own format; buffers of another format, or
        which matrix products add to, are cleared before a step and added to by every micro-batch.
        """
        return autograd_gradients(self.precision, self.kernels)

    @property
    def gradient_bytes(self) -> float:
        """Bytes of one accumulated gradient."""
        return stored_bytes(self.precision.gradients)

    def padded_vocab(self, vocab: int) -> int:
        """Rows of the vocabulary tables over the whole tensor group, padding included.

        Megatron-LM pads to a multiple of 128 x tensor (`--make-vocab-size-divisible-by`).
        """
        block = _TABLE_BLOCK * self.tensor
        return -(-vocab // block) * block
