"""Ops, modules and layers: a model as arithmetic on one rank, before any time is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

OpKind = Literal[
    "gemm",
    "grouped_gemm",
    "attention",
    "softmax",
    "norm",
    "activation",
    "rotary",
    "residual",
    "dropout",
    "embedding",
    "cross_entropy",
    "embedding_bag",
    "interaction",
    "optimizer",
    "grad_norm",
    "router",
    "permute",
    "cast",
    "copy",
]

#: What a module of core attention is called in `policies.recompute_modules`.
CORE_ATTENTION = ("core_attention",)


class Packing(NamedTuple):
    """Documents in the sequences of a micro-batch, as means over its sequences of s tokens."""

    density: float
    """Sum of l^2 over documents of l tokens, over s^2."""
    documents: float
    """Documents in a sequence."""
    longest: float
    """Tokens of the longest document, over s."""
    equal: int = 0
    """So many documents of equal length in every sequence; 0: they differ."""
    whole: float = 0.0
    """Share of the sequences that are one document."""


@dataclass(frozen=True, slots=True)
class Op:
    """One kernel on one rank.

    `shape` is (m, n, k) of a GEMM with output m x n (`batch` of them, if given as a fourth entry;
    a grouped GEMM has a matrix of its own for each of its fourth entry's groups),
    (batch, heads, kv_heads, queries, keys, head_dim) of attention, else the number of elements.
    `variant` is the GEMM's layout (`forward`, `dgrad`, `wgrad`), attention's pass
    (`forward`, `backward`), else empty. `flops` counts a multiply-add as two and a causal mask
    as half. Bytes are those that must cross device memory once. `siblings` counts equal GEMMs, this
    one among them, that follow each other on streams of their own. `packing` are documents that
    attention keeps to; its FLOPs count them.
    """

    name: str
    kind: OpKind
    dtype: str
    flops: float
    read_bytes: float
    write_bytes: float
    shape: tuple[int, ...] = ()
    variant: str = ""
    siblings: int = 1
    packing: Packing | None = None

    @property
    def groups(self) -> int:
        """GEMMs that the host launches one by one for this op; 1 for any other kernel."""
        return self.shape[3] if self.kind == "grouped_gemm" else 1


@dataclass(frozen=True, slots=True)
class Comm:
    """A collective that a module needs.

    `group` names a mesh group (`tp`, `cp`, `ep`, `etp`, `world`; `etp` share an expert's matrices,
    `cp_inside` and `cp_across` are the two levels of context groups), `size_bytes` is the whole
    tensor: the gathered result of an all-gather, the input of a reduce-scatter or all-reduce, what
    one rank sends in an all-to-all or, to the next member, in a shift (by a kernel) or push (by a
    copy engine).
    """

    group: str
    collective: Literal[
        "all_reduce",
        "all_gather",
        "reduce_scatter",
        "all_to_all",
        "shift",
        "push",
        "broadcast",
    ]
    size_bytes: float
    name: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """Kernels of a module with the collectives that may run beside them.

    The collectives begin, one after the other, once the kernels of the step before are done; the
    kernels of the next step wait for them.
    """

    ops: tuple[Op, ...]
    comms: tuple[Comm, ...] = ()


@dataclass(frozen=True, slots=True)
class Module:
    """A part of a layer: its kernels forward and backward, and the collectives around them.

    Order of a forward pass: `pre_forward`, `forward`, `post_forward`. Of a backward pass:
    `pre_backward` (the output's gradient is gathered), then `dgrad` with `pre_wgrad` (the input is
    gathered again) possibly beside it, then `wgrad` with `post_dgrad` (the input's gradient is
    reduced) possibly beside it. `saved_bytes` are kept from the forward to the backward pass,
    `parameters` are this rank's. `forward_steps`, `dgrad_steps` and `replay_steps`, where there
    are any, hold the kernels of `forward`, `dgrad` and `replay` with what is communicated between.
    `weight_casts` run before `forward` where the weights are new: in the first micro-batch of a
    step, or in every one under FSDP. `quantized` of the `parameters` have copies in low precision,
    `frozen` of them are not trained; they are those of `tensors` weights. `expert` marks the
    parameters of experts, which other ranks hold copies of than of the rest. After a module with
    `read_back` the host waits for a result of its forward pass. `beside` of the modules that follow
    run beside `post_forward`, and backward beside `pre_backward`.

    `saved_bytes` are made of `saved_input_bytes`, which are the result of the module before it, and
    of what only this module makes. `recompute` are the entries of `policies.recompute_modules` that
    run the module again. Per-op recomputation runs `replay` again (`None`: all forward kernels) and
    keeps `replay_saved_bytes` of the results. `forward_bytes` and `backward_bytes` are the blocks
    taken while the kernels run beside what is saved; where `None`, `models.live` derives them.
    `weight_gradient_bytes` are taken in the backward pass by a gradient on its way to the main one.
    """

    name: str
    forward: tuple[Op, ...]
    dgrad: tuple[Op, ...] = ()
    wgrad: tuple[Op, ...] = ()
    parameters: int = 0
    saved_bytes: float = 0.0
    saved_input_bytes: float = 0.0
    recompute: tuple[str, ...] = ()
    replay: tuple[Op, ...] | None = None
    replay_saved_bytes: float = 0.0
    forward_bytes: tuple[float, ...] | None = None
    backward_bytes: tuple[float, ...] | None = None
    weight_gradient_bytes: float = 0.0
    expert: bool = False
    read_back: bool = False
    pre_forward: tuple[Comm, ...] = ()
    post_forward: tuple[Comm, ...] = ()
    pre_backward: tuple[Comm, ...] = ()
    pre_wgrad: tuple[Comm, ...] = ()
    post_dgrad: tuple[Comm, ...] = ()
    forward_steps: tuple[Step, ...] = ()
    dgrad_steps: tuple[Step, ...] = ()
    replay_steps: tuple[Step, ...] = ()
    weight_casts: tuple[Op, ...] = ()
    quantized: int = 0
    frozen: int = 0
    tensors: int = 1
    beside: int = 0

    @property
    def trained(self) -> int:
        """Parameters that have gradients and optimizer states."""
        return self.parameters - self.frozen


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer on one rank: `kind` is `embedding`, `block`, `head`, `tables`, `mlp`, ...

    `input_bytes` is the layer's input on this rank, and the gradient of its result.
    """

    kind: str
    modules: tuple[Module, ...]
    input_bytes: float = 0.0

    @property
    def parameters(self) -> int:
        """Parameters of the layer on one rank."""
        return sum(module.parameters for module in self.modules)

    @property
    def trained(self) -> int:
        """Parameters of the layer on one rank that are not frozen."""
        return sum(module.trained for module in self.modules)

    @property
    def quantized(self) -> int:
        """Parameters of the layer on one rank that have copies in low precision."""
        return sum(module.quantized for module in self.modules)

    @property
    def expert_parameters(self) -> int:
        """Trained parameters of experts among them."""
        return sum(module.trained for module in self.modules if module.expert)
