"""A weight's gradient added to wider ones: in the GEMM that makes it, or by kernels behind it.

The kernels' bytes do not depend on the number of tokens: they weigh most where micro-batches are
small. Gradients that stay in the format in which they are made: `plan.accumulation`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from desim.models.elementwise import elementwise_op

if TYPE_CHECKING:
    from desim.models.op import Op
    from desim.models.shard import Shard


def gemm_sum_bytes(shard: Shard) -> float | None:
    """Return the bytes per gradient that its GEMM adds to, None where it writes a result apart."""
    adds = shard.main_gradients and shard.kernels.adds_in_products
    return shard.gradient_bytes if adds else None


def accumulation_ops(name: str, shard: Shard, elements: int) -> tuple[Op, ...]:
    """Return the kernels that add a weight's gradient of `elements` to the wider ones of the step.

    - A hook adds it as it is (Megatron-LM, model/distributed.py, `main_grad.add_(grad)`).
    - With copies (DeepSpeed, runtime/bf16_optimizer.py) autograd adds it to a cleared gradient of
      its own format, which `update_hp_grads` converts and adds, and `clear_lp_grads` clears again.
    """
    adds = shard.main_gradients and not shard.kernels.adds_in_products
    if not adds or shard.autograd_gradients:
        return ()
    narrow, wide = shard.element_bytes, shard.gradient_bytes

    def kernel(suffix: str, read: float, write: float) -> Op:
        return elementwise_op(f"{name}_{suffix}", "copy", "fp32", elements, read, write)

    if not shard.precision.gradient_copies:
        return (kernel("accumulate", narrow + wide, wide),)
    return (
        kernel("add_copy", 2 * narrow, narrow),
        kernel("widen", narrow, wide),
        kernel("accumulate", 2 * wide, wide),
        kernel("clear_copy", 0.0, narrow),
    )
