"""Which kernels are measured: grids of sizes that training uses, or the kernels of a scenario."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, cast

from desim.kernels.attention import is_causal
from desim.kernels.gemm import accumulates
from desim.kernels.measured import place
from desim.kernels.table_file import row_key
from desim.models.elementwise import elementwise_op
from desim.models.op import Op
from desim.models.width import stored_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from desim.models.op import OpKind
    from desim.plan.build import Plan
    from desim.spec.hardware import AttentionBackend, Device

PARTS = ("gemm", "attention", "memory", "copies")
FORMATS = ("bf16", "fp16", "fp8")
HOST_COPY = "host_copy"
#: Host copies: to the device, from it, and both at once (bytes each way).
TO_DEVICE, TO_HOST, BOTH = "to_device", "to_host", "both"

_TOKENS = (1024, 2048, 4096, 8192, 16384)
_FEATURES = (1024, 2048, 4096, 8192, 16384, 32768)
_HEADS, _HEADS_PER_KEY, _HEAD_DIMS = (8, 32, 128), (1, 4, 8), (64, 128)
_SEQUENCES = (1024, 2048, 4096, 8192, 16384, 32768)
_ELEMENTS = tuple(2**power for power in (18, 20, 22, 24, 26, 28))
_COPY_BYTES = tuple(2**power for power in (16, 18, 20, 22, 24, 26, 28, 30))

#: Longest kernel, and the share of the device's memory that its operands may take.
_MOST_FLOPS, _MEMORY_SHARE = 5e13, 0.25

#: Kernels that stream memory: name, kind, format, bytes per element read and written. Each is one
#: kernel of PyTorch, so that a row is what `desim.models.passes` calls a pass.
STREAMS: tuple[tuple[str, OpKind, str, float, float], ...] = (
    ("norm", "norm", "bf16", 2, 2),
    ("norm_dx", "norm", "bf16", 4, 2),
    ("norm_dgamma", "norm", "bf16", 4, 0),
    ("activation", "activation", "bf16", 2, 2),
    ("activation_dx", "activation", "bf16", 4, 2),
    ("residual", "residual", "bf16", 4, 2),
    ("rotary", "rotary", "bf16", 2, 2),
    ("softmax", "softmax", "bf16", 2, 2),
    ("softmax_dx", "softmax", "bf16", 4, 2),
    ("dropout", "dropout", "bf16", 2, 3),
    ("cross_entropy", "cross_entropy", "fp32", 4, 4),
    ("cross_entropy_dx", "cross_entropy", "fp32", 8, 4),
    ("embedding", "embedding", "bf16", 2, 2),
    ("permute", "permute", "bf16", 2, 2),
    ("cast_to_fp32", "cast", "fp32", 2, 4),
    ("cast_from_fp32", "cast", "fp32", 4, 2),
    ("copy", "copy", "bf16", 2, 2),
    ("clear", "copy", "fp32", 0, 4),
    ("optimizer", "optimizer", "fp32", 16, 12),
    ("grad_norm", "grad_norm", "fp32", 4, 0),
)


@dataclass(frozen=True, slots=True)
class Case:
    """A kernel to measure: the op, and the backend where it is attention."""

    op: Op
    backend: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        """What tells it apart from every other case, as in `MeasuredRow.key`."""
        return row_key(self.op, self.backend)

    @property
    def part(self) -> str:
        """The one of `PARTS` that it belongs to."""
        return {"gemm": "gemm", "attention": "attention", HOST_COPY: "copies"}.get(
            self.op.kind, "memory"
        )


def grid_cases(
    device: Device, parts: tuple[str, ...], formats: tuple[str, ...] = FORMATS
) -> list[Case]:
    """Return the cases of `parts` in those of `formats` that the device computes in."""
    own = [name for name in formats if name in device.peak_flops_per_s]
    wide = next((name for name in ("bf16", "fp16") if name in own), None)
    found: list[Case] = []
    if "gemm" in parts:
        found += [Case(op) for name in own for op in _gemms(name)]
    if "attention" in parts and wide is not None:
        found += list(_attentions(wide))
    if "memory" in parts:
        found += [
            Case(elementwise_op(name, kind, dtype, elements, read, write))
            for (name, kind, dtype, read, write), elements in product(STREAMS, _ELEMENTS)
        ]
    if "copies" in parts:
        found += [Case(host_copy(way, size)) for way, size in product(_WAYS, _COPY_BYTES)]
    room = _MEMORY_SHARE * device.memory_bytes
    return [
        case
        for case in found
        if case.op.flops <= _MOST_FLOPS and case.op.read_bytes + case.op.write_bytes <= room
    ]


def plan_cases(plan: Plan, backend: AttentionBackend) -> list[Case]:
    """Return the GEMMs and attention kernels that a planned job runs, each once."""
    found = {}
    for op in plan.context.tables.ops:
        if op.kind == "gemm" and op.shape[3:] in ((), (1,)):
            made = Case(gemm_op(op.dtype, op.shape[:3], op.variant, adds=accumulates(op)))
        elif op.kind == "attention" and place(op, backend) is not None:
            made = Case(attention_op(op.dtype, op.shape, op.variant, causal=is_causal(op)), backend)
        else:
            continue
        found[made.key] = made
    return list(found.values())


def gemm_op(dtype: str, shape: tuple[int, ...], variant: str, *, adds: bool) -> Op:
    """Return a GEMM of 16-bit output, or one that adds to an fp32 output."""
    m, n, k = shape
    read, write = (m * k + k * n) * stored_bytes(dtype), m * n * 2.0
    if adds:
        read, write = read + m * n * 4.0, m * n * 4.0
    name = "gemm_accumulate" if adds else "gemm"
    return Op(name, "gemm", dtype, 2.0 * m * n * k, read, write, (m, n, k), variant)


def attention_op(dtype: str, shape: tuple[int, ...], variant: str, *, causal: bool) -> Op:
    """Return an attention kernel; bytes as `desim.models.fused_attention` counts them."""
    batch, heads, kv_heads, queries, keys, dim = shape
    flops = 4.0 * batch * heads * queries * keys * dim * (0.5 if causal else 1.0)
    query = batch * queries * heads * dim * 2.0
    key_value = 2 * batch * keys * kv_heads * dim * 2.0
    sums = batch * heads * queries * 4.0
    name = "attention" if causal else "attention_full"
    if variant == "backward":
        read, write = 3 * query + key_value + sums, query + key_value
        return Op(name, "attention", dtype, 2.5 * flops, read, write, shape, variant)
    return Op(name, "attention", dtype, flops, query + key_value, query + sums, shape, variant)


def host_copy(way: str, size_bytes: int) -> Op:
    """Return a copy between host and device as a row has it; its bytes are those of one way."""
    kind = cast("OpKind", HOST_COPY)
    return Op(HOST_COPY, kind, "", 0.0, size_bytes, size_bytes, (size_bytes,), way)


_WAYS = (TO_DEVICE, TO_HOST, BOTH)


def _gemms(dtype: str) -> Iterator[Op]:
    """fp8 kernels have one layout; without fp32 outputs, as PyTorch has them."""
    for tokens, one, other in product(_TOKENS, _FEATURES, _FEATURES):
        yield gemm_op(dtype, (tokens, one, other), "forward", adds=False)
        if dtype != "fp8":
            yield gemm_op(dtype, (tokens, one, other), "dgrad", adds=False)
            yield gemm_op(dtype, (one, other, tokens), "wgrad", adds=False)
            yield gemm_op(dtype, (one, other, tokens), "wgrad", adds=True)


def _attentions(dtype: str) -> Iterator[Case]:
    grid = product(_HEADS, _SEQUENCES, _HEAD_DIMS, _HEADS_PER_KEY, (True, False))
    for heads, length, dim, per_key, causal in grid:
        if not causal and per_key > 1:
            continue
        shape = (1, heads, heads // per_key, length, length, dim)
        for variant, backend in product(("forward", "backward"), ("flash2", "cudnn")):
            yield Case(attention_op(dtype, shape, variant, causal=causal), backend)
