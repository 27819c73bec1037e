"""Policies: the choices under study."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le
from pydantic import Field

from desim.spec.base import Bytes, PositiveInt, Seconds, Spec
from desim.spec.collectives import Collectives
from desim.spec.experts import Experts
from desim.spec.hardware import AttentionBackend
from desim.spec.orders import Custom
from desim.spec.resources import Resources


class Overlap(Spec):
    """What communication may run beside compute."""

    grad_reduce: Literal["none", "bucketed", "per_layer"] = "bucketed"
    """`none`: reduce after the last backward; `bucketed`: each bucket once it is complete;
    `per_layer`: the same with one bucket for every layer, whatever its size."""
    param_gather: Literal["none", "prefetch", "chained"] = "prefetch"
    """ZeRO-1/2 parameters: gathered before the first forward, or bucket by bucket under it.
    `prefetch`: all are issued when the step begins, in the order of use; `chained`: each once the
    one before it is needed, as Megatron-LM issues them inside a chunk, which leaves the host's one
    hardware queue free in between."""
    tensor: Literal["none", "megatron", "chunked"] = "megatron"
    """`megatron`: in a column-parallel backward the input's all-gather runs under dgrad and the
    gradient's reduce under wgrad; `none`: all tensor-parallel communication is exposed;
    `chunked`: as `megatron`, and the all-gather before and the reduce-scatter after a GEMM are cut
    in `tensor` chunks that copy engines move while the GEMM works on others (Transformer Engine's
    user buffers; asynchronous tensor parallelism in PyTorch)."""
    pipeline: Literal["blocking", "async"] = "blocking"
    """`blocking`: a stage waits for each send/recv pair; `async`: sends and receives are posted.
    A posted receive holds its SMs until the message comes, which can cost more than it hides.
    Megatron-LM posts messages under the interleaved schedule alone."""
    tensor_chunks: PositiveInt | None = None
    """GEMMs that `tensor: chunked` makes of one, with a copy less beside them; at least
    `parallel.tensor`, as many where left out, since a rank begins with its own rows."""
    tensor_exchange: Literal["ring", "direct", "pipeline"] = "ring"
    """How chunks travel under `tensor: chunked`. `ring`: each copy to the next rank; `direct`:
    straight between every pair (PyTorch's symmetric memory); `pipeline`: as `ring` before a GEMM,
    and after it a reduce-scatter of each chunk by a kernel that takes SMs."""
    receive_ahead: Annotated[int, Ge(0)] = 1
    """Under `pipeline: async`: passes by which a receive is posted ahead of the one that needs it;
    0: when its pass is next. It begins, and holds its SMs, when what was issued before it is
    computed: PyTorch's stream of messages waits for the current one."""


FsdpIssue = Literal["explicit", "host_run_ahead", "implicit"]


class Fsdp(Spec):
    """How fully sharded data parallel (`parallel.zero: 3`) gathers and frees layers.

    Over a part of the ranks where `parallel.shard` says so (PyTorch's HYBRID_SHARD, a 2-D mesh in
    FSDP2, torchtitan's data_parallel_replicate_degree), else over all (FULL_SHARD).
    """

    issue: FsdpIssue = "explicit"
    """When the host issues gathers. `explicit`: `prefetch` layers ahead;
    `host_run_ahead`: as FSDP1 by default, forward when the host comes to the layer, which the
    device hides only while the host is ahead of it, backward one layer ahead;
    `implicit`: as FSDP2 by default, the same without any wait of the host: the stream of the
    gathers waits until an earlier layer is copied out, so that two are under way."""
    prefetch: Annotated[int, Ge(0)] = 1
    """Under `explicit`: layers whose all-gather is issued ahead of the layer that computes."""
    prefetch_backward: Annotated[int, Ge(0)] | None = None
    """The same of the backward pass; as `prefetch` where left out. 0: after the reduction of the
    layer before."""
    gathers_in_flight: PositiveInt = 2
    """Gathered layers that may exist at once; the host waits before it issues one more (FSDP1).
    FSDP2's stream waits instead: `implicit` does not use it."""
    reshard_after_forward: bool | Annotated[int, Ge(2)] = True
    """Whether a layer's gathered parameters are freed after its forward pass. A number: so
    many neighbours keep them among themselves and gather them from each other for the backward
    pass (FSDP2, ZeRO++ hpZ)."""
    reduce_every_micro_batch: bool = True
    """Whether gradients are reduce-scattered after every micro-batch, as FSDP does unless told
    otherwise; false: whole gradients are kept and reduced with the last one."""
    root_unit: bool = False
    """Whether embedding and head form one unit that is gathered first and kept until the backward
    pass ends, as wrapping by blocks leaves to the root (FSDP1); false: two units."""
    per_parameter: bool = False
    """Whether each parameter is sharded by itself (FSDP2) and copied out of what was gathered;
    false: parameters are views of a flat one (FSDP1)."""


ContextExchange = Literal["all_gather", "ring", "all_to_all", "two_level"]


RecomputeModule = Literal[
    "core_attention", "norm", "activation", "mlp", "expert_activation", "experts", "mla_up"
]


class Policies(Spec):
    """Choices that change when and how work is done, never what is computed."""

    schedule: Literal[
        "gpipe", "1f1b", "interleaved", "breadth_first",
        "zb_h1", "zb_h2", "zb_1p", "zb_2p", "zb_v", "zb_auto",
        "dualpipe", "dualpipe_v", "custom",
    ] = "1f1b"  # fmt: skip
    """Order of micro-batch passes on each stage. `zb_...` (zero bubble) place weight gradients
    apart: `zb_h1` with the memory of 1F1B, `zb_h2` with twice that; `zb_1p`, `zb_2p` the same,
    found by a search over the times of passes; `zb_v` with two chunks per stage in a V; `zb_auto`
    in the memory that `schedule_memory` says. `dualpipe` runs micro-batches from both ends and
    holds the parameters twice, `dualpipe_v` in a V. `custom` plays `custom.orders`: its mapping, or
    the path of a YAML file that holds it, may also stand here."""
    schedule_memory: Annotated[float, Gt(0)] = 1.0
    """Schedule `zb_auto` only: most micro-batches that a stage holds, over the pipeline's stages: 1
    is what 1F1B's first stage holds (`zb_1p`), 2 twice that (`zb_2p`)."""
    custom: Custom | None = None
    """The orders of schedule `custom`."""
    post_validation: Literal["auto"] | bool = "auto"
    """Whether a stage updates its parameters with the gradient norm of the stages before it and
    checks afterwards, instead of waiting for the norm of all; `auto`: under zero-bubble
    schedules."""
    recompute: Literal["none", "selective", "per_op", "full"] = "none"
    """What the backward pass computes again: `selective`: the parts of each block that
    `recompute_modules` names; `per_op`: all but attention, every second matrix product and
    reduce-scatters (as torchtitan does); `full`: every block from its input."""
    recompute_modules: tuple[RecomputeModule, ...] = Field(
        default=("core_attention",), strict=False, min_length=1
    )
    """Parts of a block that `recompute: selective` computes again; `activation` and `norm` discard
    their result, `mlp`, `experts` and `core_attention` keep their input."""
    recompute_layers: Annotated[int, Ge(1)] | None = None
    """Blocks of each stage (of each virtual stage) that recompute, the first ones; all where left
    out."""
    recompute_early_stop: bool = False
    """Whether `full` and `selective` recomputation end once all that is saved is there again, which
    leaves out the last matrix product of a block without dropout: PyTorch's non-reentrant
    checkpoint, XLA. Megatron-LM and DeepSpeed run the whole block."""
    recompute_in: Literal["backward", "bubble"] = "backward"
    """When a stage recomputes: as its backward pass comes to a block, or before the gradient that
    this pass waits for has arrived, so that it fills the bubble or the wait (Merak, arXiv
    2206.04959)."""
    recompute_ahead: PositiveInt = 1
    """Blocks of each chunk that run again before the gradient is there under `recompute_in:
    bubble`, from the last one that recomputes on; each more of them holds what it restores."""
    overlap: Overlap = Overlap()
    """What communication may run beside compute."""
    context: ContextExchange = "all_gather"
    """How ranks that share a sequence (`parallel.context`) see each other's keys and values:
    gathered whole before attention; passed round a ring in steps that attention runs beside; heads
    exchanged for tokens by an all-to-all before and after (Ulysses); or `two_level`: that among
    `context_inside` neighbours and a ring across."""
    bucket_bytes: Bytes | None = Field(alias="bucket", default=None)
    """Size of a gradient bucket; left out: as Megatron-LM's distributed data
    parallel, the larger of 40 M and 1 M x data-parallel ranks elements in the first chunk of the
    first stage, and one bucket for any other chunk."""
    bucket_padding: Literal["aligned_shards", "megatron", "megatron_busbw", "none"] = (
        "aligned_shards"
    )
    """What the size of a bucket that ZeRO-1/2 shards is a multiple of: 64 elements x ranks, so that
    every shard is aligned; `megatron`: lcm(ranks, 128), as its distributed optimizer;
    `megatron_busbw`: lcm(ranks, 128, 2^16); or nothing. Padding is moved and reduced as well."""
    reduce_every_micro_batch: bool = False
    """Whether replicated gradients (`parallel.zero: 0` or 1) are reduced after every micro-batch
    (as PyTorch DDP does unless told otherwise), not after the last alone. ZeRO-2 always does, and
    `fsdp.reduce_every_micro_batch` says it for ZeRO-3."""
    bucket_copies: bool = False
    """Whether gradients that nothing overlaps are copied into a buffer of a bucket's size to be
    reduced (DeepSpeed), which takes device memory; the time of the copies is
    not counted. Flat gradient buffers (Megatron-LM) are reduced where they are."""
    zero_partition: Literal["flat", "tensors"] = "flat"
    """How `parallel.zero: 1` gives out optimizer states: equal parts of flat buckets, so that
    gradients are reduce-scattered and parameters gathered; or whole tensors, so that gradients
    are all-reduced, the rank with the largest share updates it while others wait, and each
    parameter is broadcast from its owner (InternEvo)."""
    fsdp: Fsdp = Fsdp()
    """How layers are gathered and freed under `zero: 3`."""
    collectives: Collectives = Collectives()
    """Algorithm and protocol of each collective."""
    resources: Resources = Resources()
    """What communication takes of a device and of links."""
    split_p2p: bool = True
    """Whether a stage sends its 1/tensor part (sequence parallel; else Megatron-LM's
    scatter-gather) or the whole activation."""
    gradient_clipping: bool = True
    """Whether the global gradient norm is all-reduced before the optimizer step."""
    sync: Literal["grad_norm", "step", "none"] = "grad_norm"
    """Where the host waits for the device: reading back the gradient norm, once at the end of the
    step (loss logging), or never."""
    context_inside: PositiveInt | None = None
    """Neighbouring context ranks that exchange heads under `context: two_level`; left out: the most
    that divide the heads of keys and values and stand in one NVLink domain."""
    context_balance: Literal["zigzag", "contiguous"] = "zigzag"
    """Which tokens a context rank has under a causal mask: `zigzag` one chunk from either end, so
    that all compute alike (what Megatron-LM always does); `contiguous` one chunk, so that the last
    rank computes 2 - 1/context times the mean and others wait for it (ring attention as
    published). Heads that are exchanged (`all_to_all`) are balanced either way."""
    experts: Experts = Experts()
    """How tokens reach their experts, and how unevenly they fall on them."""


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2])


class Kernels(Spec):
    """The software stack that provides the kernels."""

    attention: AttentionBackend = "flash2"
    """Attention kernels; `unfused` keeps the scores in memory; `triton` is FlashAttention-1 written
    in Triton (flash-attn's flash_attn_triton.py, llm-foundry's `attn_impl: triton`)."""
    fusion: Literal["eager", "apex", "compile", "te"] = "te"
    """What fuses elementwise kernels: nothing, apex, torch.compile, or Transformer Engine."""
    te_version: Annotated[str, Field(pattern=r"^\d+\.\d+(\.\d+)*$")] = "2.11"
    """Version of Transformer Engine, in quotes; it decides which buffers `fusion: te` keeps."""
    cross_entropy: Literal["auto", "fused", "unfused", "eager"] = "auto"
    """Cross-entropy: `auto` as `fusion` says; `unfused` Megatron-LM's own chain with fp32 logits
    beside Transformer Engine (its default, without `--cross-entropy-loss-fusion`); `fused` one
    kernel each way that writes the gradient over the logits (apex and flash-attn `xentropy`);
    `eager` PyTorch's own beside compiled blocks."""
    loss_metrics: Annotated[int, Ge(0), Le(16)] = 0
    """Times the loss of every micro-batch is computed again for training metrics, by PyTorch's own
    calls in fp32 (Composer's cross-entropy and perplexity: 2)."""
    rotary: Literal["auto", "fused"] = "auto"
    """Rotary positions: `auto` as `fusion` says; `fused` one kernel each way (flash-attn)."""
    norm: Literal["auto", "fused", "fused_fp32"] = "auto"
    """Norms: `auto` as `fusion` says; `fused` one kernel forward, one for the input's gradient and
    one for the parameters' (apex); `fused_fp32` the same on an fp32 copy of the residual stream."""
    apart: tuple[Literal["qkv", "gate_up"], ...] = Field(default=(), strict=False)
    """Projections of one input that are matrices of their own, so that each gives the input a
    gradient: queries, keys and values (torchtitan), gate and up (torchtitan, InternEvo)."""
    repeat_kv: bool = False
    """Whether each key and value head is copied for every query head that shares it before a fused
    attention, and so exchanged between context ranks (torchtitan); unfused attention needs it."""
    packed_attention: bool = False
    """Whether attention reads queries, keys and values as their projection packs them (flash-attn's
    `qkvpacked` functions); false: what copies them, and their gradients, is as `fusion` says."""
    unpadded_attention: bool = False
    """Whether a batch is taken out of its padding before attention and put back after it, here
    without any padding: flash-attn's bert_padding copies queries, keys, values and result, and the
    host reads back where tokens are and how long the longest sequence is."""
    optimizer: Literal["auto", "fused", "unfused"] = "auto"
    """Kernels of the update: `fused` one pass over memory (apex FusedAdam, PyTorch `fused=True`);
    `unfused` a kernel per operation (PyTorch's default foreach, Composer's DecoupledAdamW); `auto`
    fused with `fusion: te` and `apex`."""
    accumulation: Literal["auto", "fused", "unfused"] = "auto"
    """Sum of a weight's gradients over micro-batches: `fused` in the matrix product that makes them
    (Megatron-LM `gradient_accumulation_fusion`); `unfused` by kernels behind it (autograd, hooks of
    a framework); `auto` fused with `fusion: te` and `apex`."""
    cuda_graphs: bool = False
    """Whether a pass is launched as one graph."""
    blocking_launch: bool = False
    """Whether the host waits for each kernel before it launches the next (the environment variable
    CUDA_LAUNCH_BLOCKING)."""
    launch_s: Seconds | None = Field(alias="launch", default=None)
    """Host time to launch one kernel; the stack's constant where left out."""
    tables: str = "auto"
    """Measured kernels (`python -m desim calibrate`) in place of modelled ones: `none`, the path of
    a table, or `auto`: the table in hardware/measured with the device's name, if there is one."""
    context_bytes: Bytes | None = Field(alias="context", default=None)
    """Device memory that CUDA's context and the kernels loaded into it take; the device's constant
    where left out. Before CUDA 11.7 every kernel of every library was loaded at once."""

    nccl_version: Annotated[str, Field(pattern=r"^\d+\.\d+(\.\d+)*$")] = "2.26"
    """Version of NCCL, in quotes: before 2.22 it connects rings and trees of every communicator at
    once, later on first use, which decides what it takes of device memory."""

    @property
    def adds_in_products(self) -> bool:
        """Whether a weight's gradient is added to those before by the matrix product itself."""
        if self.accumulation == "auto":
            return self.fusion in ("te", "apex")
        return self.accumulation == "fused"

    @property
    def fused_optimizer(self) -> bool:
        """Whether the optimizer's update is one pass over memory."""
        if self.optimizer == "auto":
            return self.fusion in ("te", "apex")
        return self.optimizer == "fused"

    def te_at_least(self, major: int, minor: int) -> bool:
        """Whether Transformer Engine is of this version or later."""
        return _version(self.te_version) >= (major, minor)

    def nccl_at_least(self, major: int, minor: int) -> bool:
        """Whether NCCL is of this version or later."""
        return _version(self.nccl_version) >= (major, minor)
