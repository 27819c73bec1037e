"""Which elementwise kernels a fusion level runs: the data of `elementwise`.

A pass is one kernel over a tensor. Its traffic counts tensors of the compute format (`read`,
`write`) and of fp32 (`read32`, `write32`). Fusion stays inside a module.

- `te`: every norm, rotary, gated activation, softmax, bias-dropout-add and cross-entropy is one
  kernel (Transformer Engine; its norm backward also makes the parameter gradients).
- `apex`: fused norm with a second kernel for the parameter gradients, fused scale-mask-softmax,
  jit-fused activation and bias-dropout-add; rotary as in eager; cross-entropy by the calls of
  core/tensor_parallel/cross_entropy.py (Megatron-LM before Transformer Engine).
- `compile`: chains of pointwise kernels and a reduction become one kernel (TorchInductor).
- `eager`: one kernel per PyTorch call, as the Hugging Face modules write them; LayerNorm, GELU and
  softmax are single calls, RMSNorm, SwiGLU and rotary are several.
"""

from __future__ import annotations

from typing import NamedTuple


class Pass(NamedTuple):
    """One kernel over a tensor: how many tensors it reads and writes."""

    name: str
    read: float
    write: float
    read32: float = 0.0
    write32: float = 0.0


class Passes(NamedTuple):
    """The kernels of one function: forward, gradient of its input, of its parameters."""

    forward: tuple[Pass, ...]
    dgrad: tuple[Pass, ...] = ()
    wgrad: tuple[Pass, ...] = ()


_NORM_FORWARD = (Pass("", 1, 1),)
_NORM_DGRAD = (Pass("_dx", 2, 1), Pass("_skip_add", 2, 1))
_NORM_TWO_KERNELS = Passes(_NORM_FORWARD, _NORM_DGRAD, (Pass("_dgamma", 2, 0),))
_RMS_EAGER = Passes(
    (
        Pass("_to_fp32", 1, 0, 0, 1),
        Pass("_square", 0, 0, 1, 1),
        Pass("_mean", 0, 0, 1, 0),
        Pass("_scale", 0, 0, 1, 1),
        Pass("_from_fp32", 0, 1, 1, 0),
        Pass("_weight", 1, 1),
    ),
    (
        Pass("_weight_dx", 1, 1),
        Pass("_from_fp32_dx", 1, 0, 0, 1),
        Pass("_scale_dx", 0, 0, 1, 1),
        Pass("_scale_drms", 0, 0, 2, 1),
        Pass("_scale_sum", 0, 0, 1, 0),
        Pass("_square_dx", 0, 0, 1, 1),
        Pass("_sum", 0, 0, 2, 1),
        Pass("_to_fp32_dx", 0, 1, 1, 0),
        Pass("_skip_add", 2, 1),
    ),
    (Pass("_dgamma_mul", 2, 1), Pass("_dgamma_sum", 1, 0)),
)

_RMS_FUSED_FP32 = Passes(
    (Pass("_to_fp32", 1, 0, 0, 1), Pass("", 0, 1, 1, 0)),
    (Pass("_dx", 1, 0, 1, 1), Pass("_to_fp32_dx", 0, 1, 1, 0), Pass("_skip_add", 2, 1)),
    (Pass("_dgamma", 1, 0, 1, 0),),
)

#: (norm, fusion or a choice of its own) -> kernels over the residual stream; `_skip_add` joins the
#: skip's gradient
#: - `fused_fp32`: InternEvo's model/modeling_internlm.py of 2023, `self.norm1(residual.float())`,
#:   which apex's mixed RMSNorm takes in fp32 and gives back in the weight's format.
NORM: dict[tuple[str, str], Passes] = {
    ("rms", "te"): Passes(_NORM_FORWARD, _NORM_DGRAD),
    ("layer", "te"): Passes(_NORM_FORWARD, _NORM_DGRAD),
    ("rms", "apex"): _NORM_TWO_KERNELS,
    ("layer", "apex"): _NORM_TWO_KERNELS,
    ("rms", "compile"): Passes(_NORM_FORWARD, (Pass("_dx", 3, 1),), (Pass("_dgamma", 2, 0),)),
    ("layer", "compile"): Passes(_NORM_FORWARD, (Pass("_dx", 3, 1),), (Pass("_dgamma", 2, 0),)),
    ("rms", "eager"): _RMS_EAGER,
    ("layer", "eager"): _NORM_TWO_KERNELS,
    ("rms", "fused"): _NORM_TWO_KERNELS,
    ("layer", "fused"): _NORM_TWO_KERNELS,
    ("rms", "fused_fp32"): _RMS_FUSED_FP32,
    ("layer", "fused_fp32"): _RMS_FUSED_FP32,
}

_ROTARY_FUSED = Passes((Pass("", 1, 1),), (Pass("_dx", 1, 1),))
_ROTARY_EAGER = Passes(
    (
        Pass("_negate", 0.5, 0.5),
        Pass("_rotate", 1, 1),
        Pass("_cos", 1, 1),
        Pass("_sin", 1, 1),
        Pass("_add", 2, 1),
    ),
    (
        Pass("_cos_dx", 1, 1),
        Pass("_sin_dx", 1, 1),
        Pass("_rotate_dx", 1, 1),
        Pass("_negate_dx", 0.5, 0.5),
        Pass("_add_dx", 2, 1),
    ),
)
#: fusion -> kernels over the queries, and again over the keys where it is not fused
ROTARY: dict[str, Passes] = {
    "te": _ROTARY_FUSED,
    "compile": _ROTARY_FUSED,
    "apex": _ROTARY_EAGER,
    "eager": _ROTARY_EAGER,
}

_GATED_FUSED = Passes((Pass("", 2, 1),), (Pass("_dx", 3, 2),))
#: fusion -> SwiGLU over tensors of tokens x ffn; `apart`: eager, gate and up being two tensors
GATED: dict[str, Passes] = {
    "te": _GATED_FUSED,
    "compile": _GATED_FUSED,
    "apex": _GATED_FUSED,
    "eager": Passes(
        (Pass("_silu", 1, 1), Pass("_mul", 2, 1)),
        (Pass("_dup", 2, 1), Pass("_dsilu", 2, 1), Pass("_dgate", 2, 1), Pass("_cat", 2, 2)),
    ),
    "apart": Passes(
        (Pass("_silu", 1, 1), Pass("_mul", 2, 1)),
        (Pass("_dup", 2, 1), Pass("_dsilu", 2, 1), Pass("_dgate", 2, 1)),
    ),
}
#: GELU is one kernel at every level (the bias is added by it or by the GEMM's epilogue)
GELU = Passes((Pass("", 1, 1),), (Pass("_dx", 2, 1),))
_RELU2_EAGER = Passes(
    (Pass("_relu", 1, 1), Pass("_square", 1, 1)),
    (Pass("_dsquare", 2, 1), Pass("_drelu", 2, 1)),
)
#: fusion -> squared ReLU (So et al. 2021, arXiv:2109.08668): a ReLU and a power where not compiled
RELU2: dict[str, Passes] = {
    "te": GELU,
    "compile": GELU,
    "apex": _RELU2_EAGER,
    "eager": _RELU2_EAGER,
}

_SOFTMAX_FUSED = Passes((Pass("", 1, 1),), (Pass("_dx", 2, 1),))
#: fusion -> scale, mask and softmax over tensors of heads x queries x keys
SOFTMAX: dict[str, Passes] = {
    "te": _SOFTMAX_FUSED,
    "apex": _SOFTMAX_FUSED,
    "compile": _SOFTMAX_FUSED,
    "eager": Passes(
        (Pass("_scale", 1, 1), Pass("_mask", 1, 1), Pass("", 1, 1)),
        (Pass("_dx", 2, 1), Pass("_mask_dx", 1, 1), Pass("_scale_dx", 1, 1)),
    ),
}

_CE_MEGATRON = Passes(
    (
        Pass("_to_fp32", 1, 0, 0, 1),
        Pass("_max", 0, 0, 1, 0),
        Pass("_subtract", 0, 0, 1, 1),
        Pass("_exp", 0, 0, 1, 1),
        Pass("_sum", 0, 0, 1, 0),
        Pass("_divide", 0, 0, 1, 1),
    ),
    (Pass("_dx", 0, 0, 1, 1), Pass("_from_fp32", 0, 1, 1, 0)),
)
#: fusion, or a choice of its own -> cross-entropy over the logits of this rank
#: - `eager`: `F.cross_entropy` under autocast: conversion and log-softmax; the gradient of the
#:   picked values is a cleared tensor of which one value per token is set.
#: - `fused`: apex and flash-attn `xentropy`: maximum and sum in one read, gradient in place.
CROSS_ENTROPY: dict[str, Passes] = {
    "te": Passes((Pass("", 2, 1),), (Pass("_dx", 1, 1),)),
    "fused": Passes((Pass("", 1, 0),), (Pass("_dx", 1, 1),)),
    "compile": Passes((Pass("_max", 1, 0), Pass("_sum", 1, 0)), (Pass("_dx", 1, 1),)),
    "apex": _CE_MEGATRON,
    "eager": Passes(
        (Pass("_to_fp32", 1, 0, 0, 1), Pass("_log_softmax", 0, 0, 1, 1)),
        (
            Pass("_picked_dx", 0, 0, 0, 1),
            Pass("_log_softmax_dx", 0, 0, 2, 1),
            Pass("_from_fp32", 0, 1, 1, 0),
        ),
    ),
}
