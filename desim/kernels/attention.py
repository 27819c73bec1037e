"""Fused attention: a backend's share of the peak, scaled for head dimension and size.

The shares in a device file hold for long causal sequences and a head dimension of 128.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from desim.errors import Mistake, SpecError
from desim.kernels.roofline import memory_s, peak_flops_per_s
from desim.kernels.time import KernelTime

if TYPE_CHECKING:
    from desim.models.op import Op, Packing
    from desim.spec.hardware import AttentionBackend, AttentionEfficiency, Device

#: backend -> the older ones that run where the device has none of it, nearest first
OLDER: dict[AttentionBackend, tuple[AttentionBackend, ...]] = {
    "flash1": (),
    "triton": ("flash1",),
    "flash2": ("flash1",),
    "flash3": ("flash2", "flash1"),
    "cudnn": ("flash3", "flash2", "flash1"),
}

_ROWS = 128  # queries of one thread block, and the block of keys (arXiv:2307.08691, section 3.3)
_REFERENCE_DIM = 128

#: Exponentials per second of one SM: 16 per clock (CUDA C programming guide, arithmetic
#: throughput) at 1.6 GHz, in the middle of the boost clocks of V100 to B200.
_EXP_PER_SM_PER_S = 16 * 1.6e9

#: GEMM FLOPs per score and head dimension: two GEMMs forward, five backward, half-hidden exp.
_GEMM_FLOPS = {"forward": 4.0, "backward": 10.0}


def choose_backend(device: Device, wanted: AttentionBackend) -> AttentionBackend:
    """Return `wanted`, or the nearest older backend that the device has."""
    for name in (wanted, *OLDER.get(wanted, ())):
        if name in device.kernels.attention:
            return name
    mistake = Mistake(
        "kernels.attention",
        f"{device.name} has neither this backend nor an older one",
        wanted,
        f"it has {', '.join(device.kernels.attention) or 'none'}, and unfused",
    )
    raise SpecError([mistake])


def attention_time(op: Op, device: Device, backend: AttentionBackend) -> KernelTime:
    """Return the time of a fused attention kernel alone."""
    shares = device.kernels.attention[backend]
    share = shares.backward if op.variant == "backward" else shares.forward
    peak = peak_flops_per_s(device, op.dtype)
    share *= head_dim_factor(op, device, peak, share) * block_factor(op)
    share *= wave_factor(op, device, shares) * padding_factor(op)
    return KernelTime(
        op.flops / (peak * share),
        memory_s(device, op.read_bytes, op.write_bytes),
        device.kernels.floor_s,
    )


def head_dim_factor(op: Op, device: Device, peak: float, share: float) -> float:
    """Return the rate at the op's head dimension over that at 128, where it is `share` of `peak`.

    Each score costs 4d FLOPs of GEMM forward (10d backward) and one exponential on units that are
    far slower (989 against 3.9 TFLOP/s on H100: Shah et al. 2024, arXiv:2407.08608, section 3.1),
    which takes as long as the GEMMs of d0 dimensions at the peak. At 128 a score takes 128 / share
    of such dimensions; what is not exponential grows with d and is no faster than the peak, so that
    of d0 at most 128 / share - 128 is not hidden. From 0.65 on H100, 648 TFLOP/s in that paper's
    figure 5, follow 480 at 64 and 785 at 256; it measured 497 and 756.
    Slow kernels lose less at small dimensions: exponentials are a smaller part of their time.
    Kernels with values narrower than keys gain nothing beyond 128 (validation/op_efficiency.csv).
    """
    dim = op.shape[5] if padding_factor(op) == 1.0 else min(op.shape[5], _REFERENCE_DIM)
    exponentials = _EXP_PER_SM_PER_S * device.sms
    reference = _REFERENCE_DIM / share
    visible = min(peak / (_GEMM_FLOPS[op.variant] * exponentials), reference - _REFERENCE_DIM)
    relative = dim / _REFERENCE_DIM
    return relative * reference / ((reference - visible) * relative + visible)


def is_causal(op: Op) -> bool:
    """Return whether the op counts about half of the scores."""
    return op.flops < 0.75 * _uncut_flops(op)


def _uncut_flops(op: Op) -> float:
    """FLOPs of all scores inside documents, none of them masked."""
    batch, heads, _, queries, keys, dim = op.shape
    density = op.packing.density if op.packing else 1.0
    return _GEMM_FLOPS[op.variant] * batch * heads * queries * keys * dim * density


def block_factor(op: Op) -> float:
    """Return the useful share of the blocks: a causal mask crosses blocks, a last one is cut.

    A causal row of nq blocks computes half of the square and half a block more: s / (s + block).
    """
    if op.packing:
        return _packed_block_factor(op, op.packing)
    queries, keys = op.shape[3], op.shape[4]
    whole = (queries / (ceil(queries / _ROWS) * _ROWS)) * (keys / (ceil(keys / _ROWS) * _ROWS))
    return whole * keys / (keys + _ROWS) if is_causal(op) else whole


def _packed_block_factor(op: Op, packing: Packing) -> float:
    """Return the same over documents, whose last blocks are anything from empty to full.

    A document of x blocks takes n = x + f with f even in 0 to 1: of a rectangle of x by y blocks
    x y + (x + y) / 2 + 1/3 on average; under a causal mask half of that and of its x + 1/2 rows, of
    a square (x^2 + 2 x + 5/6) / 2. Sequences of one document have whole blocks: f = 0.
    """
    batch, _, _, queries, keys, _ = op.shape
    useful = batch * queries * keys * packing.density / _ROWS**2
    cut = batch * (packing.documents - packing.whole)
    spare = batch * (1 - packing.whole) * (queries + keys) / 2 / _ROWS + cut / 3
    if is_causal(op):
        spare += batch * queries / _ROWS + cut / 2
    return useful / (useful + spare)


def padding_factor(op: Op) -> float:
    """Return the useful share of the head dimension where values are narrower than keys.

    Kernels run both products at the wider one: keys of 192 and values of 128 (DeepSeek's latent
    attention) leave 0.83. That and nothing else explains the rows of validation/op_efficiency.csv.
    """
    return min(1.0, op.flops / (_uncut_flops(op) * (0.5 if is_causal(op) else 1.0)))


def wave_factor(op: Op, device: Device, shares: AttentionEfficiency) -> float:
    """Return the share of SMs that thread blocks fill.

    Equal blocks run in whole waves. Causal ones take from nothing to twice their mean: in no order
    of length the last to start adds on average half of the longest, one mean, as a tail, and the
    longest alone bounds the time (list scheduling, Graham 1969). A backend that starts the longest
    first, or cuts blocks otherwise, has constants of its own. Blocks of documents are as long as
    their document: the longest is that of the longest one, and without a mask a tail of half of it
    comes with a second wave. Those of sequences of one document are equal.
    """
    batch, heads, _, queries, _, _ = op.shape
    packing = op.packing
    if packing is None:
        blocks, stretch = float(batch * ceil(queries / _ROWS)), 1.0
    else:
        blocks = batch * (queries / _ROWS + (packing.documents - packing.whole) / 2)
        stretch = packing.longest / packing.density
    waves = heads * blocks / device.sms
    if not is_causal(op):
        whole = packing.whole if packing else 1.0
        tail = min(max(waves - 1, 0.0), 1.0) * stretch / 2
        unlike = max(waves + tail, stretch)
        return waves / (whole * ceil(waves) + (1 - whole) * unlike)
    if op.variant == "backward":
        tail, longest = shares.backward_tail, shares.backward_longest
    else:
        tail, longest = shares.forward_tail, shares.forward_longest
    return waves / max(waves + stretch * tail, stretch * longest)
