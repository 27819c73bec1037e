"""Fused attention kernels, forward and backward, over a rectangle of queries and keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from desim.models.op import Op
from desim.models.packing import packed

if TYPE_CHECKING:
    from desim.models.shard import Shard

_LSE_BYTES = 4  # log-sum-exp per query and head, fp32 (Dao 2023, arXiv:2307.08691, section 3.1)
_BACKWARD_OVER_FORWARD = 2.5  # five GEMMs against two, the scores being recomputed (same paper)


class Rectangle(NamedTuple):
    """Queries against keys of `batch` sequences on one rank; `causal` leaves half of the work."""

    batch: int
    heads: int
    kv_heads: int
    queries: int
    keys: int
    dim: int
    causal: bool
    values_over_keys: float = 1.0
    """Width of a head's value over that of its query and key, which `dim` is the mean of."""

    @property
    def query_elements(self) -> int:
        """Elements of the queries, or of the output."""
        return self.batch * self.queries * self.heads * self.dim

    @property
    def key_elements(self) -> int:
        """Elements of the keys, or of the values."""
        return self.batch * self.keys * self.kv_heads * self.dim

    @property
    def lse_bytes(self) -> float:
        """Bytes of the log-sum-exp that the forward kernel leaves for the backward one."""
        return float(self.batch * self.heads * self.queries * _LSE_BYTES)


def fused_ops(shard: Shard, work: Rectangle) -> tuple[Op, Op]:
    """Return the forward and the backward kernel of attention over `work`, kept to documents.

    Shapes have the width of queries and keys; FLOPs and bytes are those of the mean width.
    """
    wide = round(2 * work.dim / (1 + work.values_over_keys))
    shape = (work.batch, work.heads, work.kv_heads, work.queries, work.keys, wide)
    flops = 4.0 * work.batch * work.heads * work.queries * work.keys * work.dim
    flops *= 0.5 if work.causal else 1.0
    query_bytes = work.query_elements * shard.element_bytes
    kv_bytes = 2 * work.key_elements * shard.element_bytes
    forward = Op(
        "attention",
        "attention",
        shard.dtype,
        flops,
        query_bytes + kv_bytes,
        query_bytes + work.lse_bytes,
        shape,
        "forward",
    )
    backward = Op(
        "attention_backward",
        "attention",
        shard.dtype,
        flops * _BACKWARD_OVER_FORWARD,
        3 * query_bytes + kv_bytes + work.lse_bytes,
        query_bytes + kv_bytes,
        shape,
        "backward",
    )
    return packed(forward, shard.packing), packed(backward, shard.packing)
