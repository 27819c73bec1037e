"""One matrix product: its FLOPs and the bytes that cross memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from desim.models.op import Op

if TYPE_CHECKING:
    from desim.models.shard import Shard


def gemm(
    name: str,
    shard: Shard,
    shape: tuple[int, ...],
    variant: str = "forward",
    *,
    useful: float = 1.0,
    accumulate_bytes: float | None = None,
    dtype: str = "",
    operand_bytes: float | None = None,
) -> Op:
    """Return a GEMM of `shape` (m, n, k[, batch]) that reads its operands and writes its output.

    `useful` is the share of the work that counts as FLOPs (a causal mask leaves half).
    `accumulate_bytes` per output element are read and written where the GEMM adds to an output
    that exists. `dtype` and `operand_bytes` replace the compute format's.
    """
    m, n, k = shape[:3]
    batch = shape[3] if len(shape) > 3 else 1
    width = shard.operand_bytes if operand_bytes is None else operand_bytes
    read = batch * (m * k + k * n) * width
    write = batch * m * n * (shard.element_bytes if accumulate_bytes is None else accumulate_bytes)
    if accumulate_bytes is not None:
        read += batch * m * n * accumulate_bytes
    flops = 2.0 * batch * m * n * k * useful
    return Op(name, "gemm", dtype or shard.precision.compute, flops, read, write, shape, variant)
