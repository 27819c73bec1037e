"""What parameters cost: bytes per parameter of a layout, and the kernels of the optimizer step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from desim.models.elementwise import elementwise_op
from desim.models.width import element_bytes, stored_bytes

if TYPE_CHECKING:
    from desim.models.op import Op
    from desim.spec.workload import Precision

#: optimizer -> fp32 values of state per parameter, FLOPs per parameter of an update
_STATE: dict[str, tuple[int, float]] = {
    "adam_fp32": (2, 12.0),
    "sgd_fp32": (0, 2.0),
    "adagrad_rowwise": (1, 6.0),  # row-wise for tables only: a dense matrix keeps full state
}


def _has_master(precision: Precision) -> bool:
    """Parameters narrower than fp32 have an fp32 copy that the optimizer updates."""
    return element_bytes(precision.compute) < 4


def bytes_per_parameter(precision: Precision, zero: int, data_ranks: int) -> dict[str, float]:
    """Return the bytes that one rank keeps per parameter: `parameters`, `gradients`, `optimizer`.

    With d data ranks, bf16 compute, fp32 gradients and Adam (Rajbhandari et al. 2020,
    arXiv:1910.02054, section 5, with fp32 gradients as in Megatron-LM's distributed optimizer):

    - zero 0: 2 + 4 + 12 = 18; the 12 are the fp32 parameter and Adam's two moments.
    - zero 1: 6 + 12/d. zero 2: 2 + 16/d.
    - zero 3 (PyTorch FSDP): the shard is the fp32 parameter, its gradient is kept in the same
      format whatever it was reduced in, and there is no second copy: (4 + 4 + 8)/d = 16/d. The
      gathered layers are activations to the memory plan.
    """
    state = 4.0 * _STATE[precision.optimizer][0]
    if zero == 3:
        return {
            "parameters": 4.0 / data_ranks,
            "gradients": 4.0 / data_ranks,
            "optimizer": state / data_ranks,
        }
    master = 4.0 if _has_master(precision) else 0.0
    return {
        "parameters": element_bytes(precision.compute),
        "gradients": stored_bytes(precision.gradients) / (data_ranks if zero >= 2 else 1),
        "optimizer": (master + state) / (data_ranks if zero >= 1 else 1),
    }


def table_bytes_per_parameter(precision: Precision, embedding_dim: int) -> float:
    """Return the bytes of an embedding table's parameter with its share of optimizer state.

    Tables have neither gradients nor a master copy: the look-up's backward kernel updates rows in
    place. Row-wise Adagrad keeps one fp32 value per row.
    """
    width = stored_bytes(precision.embedding or precision.compute)
    if precision.optimizer == "adagrad_rowwise":
        return width + 4.0 / embedding_dim
    return width + 4.0 * _STATE[precision.optimizer][0]


def optimizer_ops(
    parameters: float, shard_count: int, precision: Precision, zero: int = 1
) -> tuple[Op, ...]:
    """Return the fused update of this rank's shard of `parameters`, cut in `shard_count`.

    It reads gradient, fp32 parameter and state and writes the fp32 parameter, the state and the
    compute copy. Under zero 3 the gradient is fp32 and there is no copy.
    """
    values, flops = _STATE[precision.optimizer]
    gradient = 4.0 if zero == 3 else stored_bytes(precision.gradients)
    copy = element_bytes(precision.compute) if _has_master(precision) and zero < 3 else 0.0
    state = 4.0 * (1 + values)
    return (
        elementwise_op(
            "optimizer",
            "optimizer",
            "fp32",
            parameters / shard_count,
            gradient + state,
            state + copy,
            flops,
        ),
    )


def grad_norm_op(parameters_on_rank_shard: float, precision: Precision) -> Op:
    """Return the sum of squares of the gradients that this rank holds after the reduction."""
    width = stored_bytes(precision.gradients)
    return elementwise_op("grad_norm", "grad_norm", "fp32", parameters_on_rank_shard, width, 0, 2.0)


def zero_gradients_op(parameters: float, precision: Precision) -> Op:
    """Return the clearing of the gradient buffer of `parameters` before a step."""
    width = stored_bytes(precision.gradients)
    return elementwise_op("zero_gradients", "copy", "fp32", parameters, 0, width, 0.0)
