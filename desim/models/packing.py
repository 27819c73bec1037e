"""What documents leave of an attention kernel's work."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from desim.models.op import Op, Packing


def packed(op: Op, packing: Packing | None) -> Op:
    """Return an attention kernel over the documents of its sequences.

    With attention inside documents only, FLOPs are those of the sum of l^2 over documents of l
    tokens in place of the square of a sequence (Krell et al. 2021, arXiv:2107.02027).
    Equal documents are a batch of shorter sequences. Bytes are the same: every query, key and value
    is read once. Ranks that share a sequence each have as large a part of every document
    (Transformer Engine's `thd_get_partitioned_indices` cuts each document into 2 x ranks chunks),
    so that a part of the queries and of the keys meets the same share of scores as the whole.
    """
    if packing is None:
        return op
    batch, heads, kv_heads, queries, keys, dim = op.shape
    equal = packing.equal
    if equal and queries % equal == 0 and keys % equal == 0:
        shape = (batch * equal, heads, kv_heads, queries // equal, keys // equal, dim)
        return replace(op, flops=op.flops / equal, shape=shape)
    return replace(op, flops=op.flops * packing.density, packing=packing)


def repacked(op: Op, old: Packing | None, new: Packing | None) -> Op:
    """Return a kernel over other documents than those that it was made for.

    `old` may not be `equal` documents, of which the kernel no longer tells. FLOPs of whole
    sequences are a whole number.
    """
    if old is not None:
        op = replace(op, flops=float(round(op.flops / old.density)), packing=None)
    return packed(op, new)
