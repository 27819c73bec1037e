"""Low-precision recipes: linear layers in fp8 or fp4 while everything else stays in 16 bits.

The products of a linear layer are `x w` (forward), `dy w` (dgrad) and `x dy` (wgrad); each runs
along another axis, so each operand is needed in two copies: quantised along its rows and along its
columns. What that costs in passes over memory is the data of this file, in bytes per element.

- Transformer Engine (user guide, "Low precision training", 2.x): one kernel makes both copies. With
  one scale per tensor (`delayed`, `tensorwise`) the second copy is the transpose, which Hopper's
  GEMMs need (both operands contiguous along k) and Blackwell's do not. `delayed` knows its scale
  from earlier steps and lets the fused norm write fp8; `tensorwise` reads the tensor for its amax
  first, in the norm's kernel where that is fused. `blockwise` has an fp32 scale per 1 x 128
  (activations, gradients) or 128 x 128 (weights; DeepSeek-AI 2024, arXiv:2412.19437, 3.3.2),
  `mxfp8` one byte per 32 (Rouhani et al. 2023, arXiv:2310.10537), `nvfp4` one byte per 16 and a
  scale per tensor; its columns go through a random Hadamard transform, a kernel of its own (NVIDIA
  2025, arXiv:2509.25149, section 4), unless `NVTE_NVFP4_DISABLE_RHT` switches that off. Weights
  are quantised once per step, whatever the number of micro-batches. One quantised copy of the input
  is saved.
- torchao (float8 and MX training): operands are converted where they are used and again in the
  backward pass, from 16-bit tensors that are saved. `tensorwise` and `rowwise` read for the amax,
  then convert; a compiled chain is one kernel per reading, in eager mode every call is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from desim.models.width import element_bytes, stored_bytes

if TYPE_CHECKING:
    from desim.spec.hardware import Dtype
    from desim.spec.workload import Precision

Operand = Literal["input", "gradient", "weight"]


class Stream(NamedTuple):
    """A kernel over an operand: bytes read and written per element."""

    name: str
    read_bytes: float
    write_bytes: float


class Casts(NamedTuple):
    """Kernels that quantise an operand for the first and for the second GEMM that reads it."""

    first: tuple[Stream, ...] = ()
    second: tuple[Stream, ...] = ()

    def once(self, copy_bytes: float) -> Casts:
        """Return what is left where the first GEMM alone reads the operand (frozen weights)."""
        kept = [step for step in self.first if step.name != "hadamard_cast"]
        last = kept[-1]._replace(write_bytes=copy_bytes) if kept else None
        return Casts((*kept[:-1], last) if last else ())


@dataclass(frozen=True, slots=True)
class Recipe:
    """What quantises the operands of linear layers, and into what.

    `dtype` is the format of the GEMMs. `hadamard`: columns of 4-bit activations and gradients are
    transformed. `engine` says that Transformer Engine's kernels run, else
    torchao's (`fused`: compiled). `transposes`: the second copy of a tensor with one scale is
    needed. `norm` says that a norm is fused with the linear layer behind it.
    """

    name: str
    dtype: str
    engine: bool
    fused: bool
    transposes: bool
    norm: bool
    hadamard: bool = True

    @property
    def per_tensor(self) -> bool:
        """Whether a tensor has one scale, so that its copies along both axes are equal."""
        return self.name in ("delayed", "tensorwise")

    @property
    def copy_bytes(self) -> float:
        """Bytes of one element of a quantised activation or gradient with its share of scales."""
        return stored_bytes(self.dtype) + _SCALE_BYTES.get(self.name, 0.0)

    @property
    def weight_copies_bytes(self) -> float:
        """Bytes per parameter of the quantised copies of a weight that are kept for a step."""
        copies = 1 if self.per_tensor and not self.transposes else 2
        return copies * self.copy_bytes

    @property
    def gathers(self) -> bool:
        """Whether activations travel quantised within the tensor group.

        Transformer Engine gathers what it has quantised; torchao does so with one scale per tensor.
        """
        return self.engine or self.per_tensor

    @property
    def gathered_gradient_bytes(self) -> float:
        """Bytes per element of a gathered output gradient: both copies where they differ."""
        return self.copy_bytes * (1 if self.per_tensor else 2)

    @property
    def reduces_amax(self) -> bool:
        """Whether the scale of a gathered tensor needs the amax of the whole tensor group first."""
        return self.name in ("tensorwise", "nvfp4")

    @property
    def norm_writes_quantized(self) -> bool:
        """Whether a fused norm writes its output quantised: its scale is known before it runs."""
        return self.norm and self.name == "delayed"

    def casts(
        self, operand: Operand, width: float, *, gathered: bool = False, normed: bool = False
    ) -> Casts:
        """Return what quantises an operand of `width` bytes per element.

        `gathered`: its parts are quantised before they are gathered, and the whole is transposed
        afterwards. `normed`: a fused norm made it.
        """
        if not self.engine:
            return self._torchao(operand, width)
        normed = normed and self.norm
        amax = (Stream("amax", width, 0.0),)
        if self.name == "nvfp4":
            return Casts(amax + self._four_bit(operand, width))
        if not self.per_tensor:
            return Casts((Stream("cast", width, 2 * self.copy_bytes),))
        first = amax if self.name == "tensorwise" and not normed else ()
        one = self.copy_bytes
        turn = (Stream("transpose", one, one),) if self.transposes else ()
        if normed and self.name == "delayed":
            return Casts((), turn)
        if gathered or not turn:
            return Casts((*first, Stream("cast", width, one)), turn)
        return Casts((*first, Stream("cast", width, 2 * one)))

    def _four_bit(self, operand: Operand, width: float) -> tuple[Stream, ...]:
        """Weights have square blocks, one copy for both axes; the others a transform of columns."""
        if operand == "weight" or not self.hadamard:
            return (Stream("cast", width, 2 * self.copy_bytes),)
        return (
            Stream("cast", width, self.copy_bytes),
            Stream("hadamard_cast", width, self.copy_bytes),
        )

    def _torchao(self, operand: Operand, width: float) -> Casts:
        """Every use converts; with one scale the gradient's second copy is a transpose."""
        convert = _CONVERT if self.fused else _CONVERT_EAGER
        whole = tuple(
            Stream(n, r * width + r4 * 4, w * width + w4 * 4) for n, r, w, r4, w4 in convert
        )
        last = whole[-1]
        again = (*whole[:-1], Stream(last.name, last.read_bytes, self.copy_bytes))
        if self.name == "mxfp8":
            return Casts(again[-1:], again[-1:])
        if operand == "gradient" and self.per_tensor:
            return Casts(again, (Stream("transpose", self.copy_bytes, self.copy_bytes),))
        if self.per_tensor and self.fused:
            return Casts(again, again[-1:])  # the amax is a number that the backward pass keeps
        return Casts(again, again)

    def gathered_weight_casts(self, width: float) -> Casts:
        """Return what a weight still needs that was gathered in low precision.

        MXFP8 parameters are gathered in 16 bits, because both copies would be as many bytes, and
        then quantised (Megatron-LM `--reuse-grad-buf-for-mxfp8-param-ag`).
        """
        one = self.copy_bytes
        turn = Stream("transpose", one, one)
        if not self.engine:
            return Casts((), (turn,))
        if self.name == "mxfp8":
            return self.casts("weight", width)
        return Casts((turn,) if self.transposes or not self.per_tensor else ())


#: recipe -> bytes of scales per element; where a block is a row or the tensor it is next to none
_SCALE_BYTES = {"blockwise": 4 / 128, "mxfp8": 1 / 32, "nvfp4": 1 / 16}

#: torchao's conversion: (name, tensors read, written, read in fp32, written in fp32); the last
#: kernel's output is the copy
_CONVERT = (("amax", 1, 0, 0, 0), ("cast", 1, 0, 0, 0))
_CONVERT_EAGER = (
    ("abs", 1, 1, 0, 0),
    ("amax", 1, 0, 0, 0),
    ("to_fp32", 1, 0, 0, 1),
    ("scale", 0, 0, 1, 1),
    ("clamp", 0, 0, 1, 1),
    ("cast", 0, 0, 1, 0),
)


def recipe_of(precision: Precision, fusion: str, *, any_layout: bool) -> Recipe | None:
    """Return the recipe of a run's linear layers, or None where they run in the compute format.

    `delayed`, `blockwise` and `nvfp4` are Transformer Engine's under any fusion level, `rowwise` is
    torchao's; `tensorwise` and `mxfp8` are the former's where `fusion` is `te`.
    """
    name = precision.recipe
    if name == "none":
        return None
    engine = name in ("delayed", "blockwise", "nvfp4") or (name != "rowwise" and fusion == "te")
    return Recipe(
        name,
        product_dtype(precision),
        engine=engine,
        fused=fusion != "eager",
        transposes=not any_layout,
        norm=fusion == "te",
        hadamard=precision.hadamard,
    )


def product_dtype(precision: Precision) -> Dtype:
    """Format of the GEMMs of linear layers."""
    if precision.recipe == "none":
        return precision.compute
    return "fp4" if precision.recipe == "nvfp4" else "fp8"


def kept_parameter_bytes(precision: Precision, recipe: Recipe | None) -> float:
    """Bytes per parameter that a recipe's weights take on a rank that holds them whole.

    Primary weights in low precision are their copies; else the copies come on top.
    """
    width = element_bytes(precision.compute)
    if recipe is None or not recipe.engine:
        return width
    return recipe.weight_copies_bytes + (0.0 if precision.low_precision_parameters else width)


def gathered_parameter_bytes(precision: Precision, recipe: Recipe | None) -> float:
    """Bytes per parameter of a recipe's weights as they are gathered over the data ranks."""
    width = element_bytes(precision.compute)
    if recipe is None or not precision.low_precision_parameters or recipe.name == "mxfp8":
        return width
    return recipe.copy_bytes
