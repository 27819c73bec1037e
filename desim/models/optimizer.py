"""What parameters cost: bytes per parameter of a layout, and the kernels of the optimizer step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from desim.models.elementwise import elementwise_op
from desim.models.width import element_bytes, stored_bytes

if TYPE_CHECKING:
    from desim.models.op import Op
    from desim.spec.workload import Precision

#: optimizer -> bytes of state per parameter, FLOPs per parameter of an update
_STATE: dict[str, tuple[float, float]] = {
    "adam_fp32": (8.0, 12.0),
    "adam_bf16_states": (4.0, 12.0),  # both moments: DeepSeek-AI 2024, arXiv:2412.19437, 3.3.3
    "adam_fp8_states": (2.0, 12.0),  # Megatron-LM --exp-avg-dtype fp8 --exp-avg-sq-dtype fp8
    "adam_bf16": (4.0, 12.0),
    "lion_fp32": (4.0, 8.0),  # one momentum: Chen et al. 2023, arXiv:2302.06675, algorithm 2
    "sgd_fp32": (0.0, 2.0),
    "adagrad_rowwise": (4.0, 6.0),  # row-wise for tables only: a dense matrix keeps full state
}


def state_bytes(precision: Precision) -> float:
    """Bytes of optimizer state per parameter of a dense matrix, without an fp32 copy."""
    return _STATE[precision.optimizer][0]


def _updated_bytes(precision: Precision) -> float:
    """Bytes of a parameter as the optimizer updates it: fp32, but with `adam_bf16`."""
    return element_bytes(precision.compute) if precision.optimizer == "adam_bf16" else 4.0


def fsdp_gradient_bytes(precision: Precision) -> float:
    """Bytes of a gradient of FSDP's shard, which has the format of the parameter's shard."""
    return _updated_bytes(precision)


def _has_master(precision: Precision) -> bool:
    """Parameters narrower than what the optimizer updates have a copy that it does."""
    return element_bytes(precision.compute) < _updated_bytes(precision)


def has_gradient_copies(precision: Precision, zero: int) -> bool:
    """Whether gradients are kept twice: as they are made, and as they are accumulated."""
    wider = stored_bytes(precision.gradients) > element_bytes(precision.compute)
    return precision.gradient_copies and wider and zero < 2


def updated_gradient_bytes(precision: Precision, zero: int) -> float:
    """Bytes per parameter of the gradients that an optimizer step makes for itself.

    It wants them as wide as the parameters that it updates: those kept narrower are converted all
    at once before it, each rank its shard (Megatron-LM, core/optimizer/optimizer.py,
    `_copy_model_grads_to_main_grads`; DeepSpeed, stage_1_and_2.py, `step`).
    """
    updated = _updated_bytes(precision)
    return updated if zero < 3 and stored_bytes(precision.gradients) < updated else 0.0


def bytes_per_parameter(precision: Precision, zero: int, data_ranks: int) -> dict[str, float]:
    """Return the bytes that one rank keeps per parameter: `parameters`, `gradients`, `optimizer`.

    With d data ranks, bf16 compute, fp32 gradients and Adam (Rajbhandari et al. 2020,
    arXiv:1910.02054, section 5, with fp32 gradients as in Megatron-LM's distributed optimizer):

    - zero 0: 2 + 4 + 12 = 18; the 12 are the fp32 parameter and Adam's two moments.
    - zero 1: 6 + 12/d. zero 2: 2 + 16/d.
    - zero 3 (PyTorch FSDP): the shard is the fp32 parameter, its gradient is kept in the same
      format whatever it was reduced in, and there is no second copy: (4 + 4 + 8)/d = 16/d. The
      gathered layers are activations to the memory plan.

    With `gradient_copies` zero 0 and 1 have 2 more. Narrower states take less of the 12 or 16;
    `adam_bf16` has no fp32 copy: 2 + 2 + 4 in all.
    """
    state = state_bytes(precision)
    if zero == 3:
        updated = _updated_bytes(precision)
        return {
            "parameters": updated / data_ranks,
            "gradients": updated / data_ranks,
            "optimizer": state / data_ranks,
        }
    master = 4.0 if _has_master(precision) else 0.0
    copies = element_bytes(precision.compute) if has_gradient_copies(precision, zero) else 0.0
    return {
        "parameters": element_bytes(precision.compute),
        "gradients": stored_bytes(precision.gradients) / (data_ranks if zero >= 2 else 1) + copies,
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
    return width + state_bytes(precision)


#: kernels of an Adam that is not fused: fp32 tensors read, written, the gradient among the former
#: (Composer optim/decoupled_weight_decay.py, `adamw`, without weight decay; PyTorch
#: optim/adam.py, `_multi_tensor_adam`, has as many bytes)
_ADAM_STEPS = (
    ("decay_first", 1, 1, False),
    ("add_gradient", 1, 1, True),
    ("decay_second", 1, 1, False),
    ("add_square", 1, 1, True),
    ("root", 1, 1, False),
    ("correct", 1, 1, False),
    ("add_epsilon", 1, 1, False),
    ("apply", 3, 1, False),
)
#: optimizers that write the compute copy in their one kernel (Transformer Engine's FusedAdam with
#: narrow states, Megatron-LM `--use-precision-aware-optimizer`) and read gradients as they are
_AWARE = ("adam_bf16_states", "adam_fp8_states")


def optimizer_ops(
    parameters: float,
    shard_count: int,
    precision: Precision,
    zero: int = 1,
    *,
    fused: bool = True,
) -> tuple[Op, ...]:
    """Return the update of this rank's shard of `parameters`, cut in `shard_count`.

    Fused it reads gradient, fp32 parameter and state and writes the fp32 parameter and the state;
    otherwise every operation is a kernel. A second kernel makes the compute copy (Megatron-LM
    optimizer/optimizer.py, `_copy_main_params_to_model_params`; DeepSpeed and InternEvo the same).
    Under zero 3 the gradient is as wide as the parameter and there is no copy.
    """
    state, flops = _STATE[precision.optimizer]
    updated = _updated_bytes(precision)
    gradient = _gradient_bytes(precision, zero)
    copy = element_bytes(precision.compute) if _has_master(precision) and zero < 3 else 0.0
    aware = precision.optimizer in _AWARE
    size = parameters / shard_count
    if not fused and precision.optimizer in ("adam_fp32", "adam_bf16"):
        ops = [
            _pass(f"optimizer_{name}", size, read * updated + own * gradient, write * updated)
            for name, read, write, own in _ADAM_STEPS
        ]
    else:
        written = updated + state + (copy if aware else 0.0)
        ops = [_pass("optimizer", size, gradient + updated + state, written, flops)]
    if copy and not aware:
        ops.append(_pass("model_parameters", size, updated, copy))
    return tuple(ops)


def _pass(name: str, size: float, read: float, write: float, flops: float = 1.0) -> Op:
    return elementwise_op(name, "optimizer", "fp32", size, read, write, flops)


def _gradient_bytes(precision: Precision, zero: int) -> float:
    """Bytes of a gradient as the update reads it: the parameter's where it is a copy in fp32."""
    if zero < 3 and (not _has_master(precision) or precision.optimizer in _AWARE):
        return stored_bytes(precision.gradients)
    return _updated_bytes(precision)


def gradient_ops(
    parameters: float, precision: Precision, zero: int, *, clipping: bool
) -> tuple[Op, ...]:
    """Return what is done to the gradients that this rank holds after the reduction.

    Narrow ones are copied to the fp32 gradients of the fp32 parameters (Megatron-LM
    `_copy_model_grads_to_main_grads`). In fp16 the loss scale is divided out while they are
    searched for infinities (`_amp_foreach_non_finite_check_and_unscale_`). With `clipping` their
    squares are summed.
    """
    kept, width = stored_bytes(precision.gradients), _gradient_bytes(precision, zero)
    ops = []
    if zero < 3 and kept < width:
        ops.append(_pass("main_gradients", parameters, kept, width, 0.0))
    if precision.compute == "fp16":
        ops.append(_pass("unscale", parameters, width, width))
    if clipping:
        norm = elementwise_op("grad_norm", "grad_norm", "fp32", parameters, width, 0, 2.0)
        ops.append(norm)
    return tuple(ops)


def clip_op(parameters: float, precision: Precision, zero: int) -> Op:
    """Return the multiplication of the gradients once their norm is known.

    `torch.nn.utils.clip_grad_norm_`, FSDP's and DeepSpeed always multiply; Megatron-LM does where
    the norm exceeds its bound, as it does in the first steps that benchmarks run.
    """
    width = _gradient_bytes(precision, zero)
    return _pass("clip", parameters, width, width)


def zero_gradients_op(parameters: float, precision: Precision) -> Op:
    """Return the clearing of the gradient buffer of `parameters` before a step."""
    width = stored_bytes(precision.gradients)
    return elementwise_op("zero_gradients", "copy", "fp32", parameters, 0, width, 0.0)
