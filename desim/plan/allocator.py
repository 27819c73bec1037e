"""PyTorch's caching allocator: what a sequence of allocations and frees reserves of a device.

Rules of `c10/cuda/CUDACachingAllocator.cpp` with its default settings: sizes are rounded up to
512 B; up to 1 MiB they come from segments of 2 MiB, up to 10 MiB from segments of 20 MiB, above
from segments of their own size rounded up to 2 MiB. The smallest free block that is large enough is
taken and split where what is left is worth keeping; freed neighbours are joined. Segments stay.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field

_ROUND, _SMALL, _SMALL_SEGMENT = 512, 2**20, 2 * 2**20
_MIDDLE, _MIDDLE_SEGMENT, _SEGMENT_ROUND = 10 * 2**20, 20 * 2**20, 2 * 2**20


@dataclass(slots=True, eq=False)
class Block:
    """A part of a segment, between its neighbours."""

    size: int
    start: int
    small: bool
    free: bool = False
    before: Block | None = None
    after: Block | None = None


@dataclass(slots=True)
class Allocator:
    """The state of the allocator: `reserved_bytes` only grow."""

    reserved_bytes: int = 0
    allocated_bytes: int = 0
    _free: dict[bool, list[tuple[int, int]]] = field(default_factory=lambda: {True: [], False: []})
    """Free blocks of each pool by size, then address."""
    _at: dict[int, Block] = field(default_factory=dict)

    def allocate(self, num_bytes: float) -> Block:
        """Take a block of at least `num_bytes`."""
        size = max(1, -(-int(num_bytes) // _ROUND)) * _ROUND
        small = size <= _SMALL
        pool = self._free[small]
        place = bisect_left(pool, (size, 0))
        if place < len(pool):
            block = self._at[pool.pop(place)[1]]
            block.free = False
        else:
            block = self._segment(size, small)
        self._split(block, size)
        self.allocated_bytes += block.size
        return block

    def _segment(self, size: int, small: bool) -> Block:
        if small:
            whole = _SMALL_SEGMENT
        elif size < _MIDDLE:
            whole = _MIDDLE_SEGMENT
        else:
            whole = -(-size // _SEGMENT_ROUND) * _SEGMENT_ROUND
        block = Block(whole, self.reserved_bytes, small)
        self.reserved_bytes += whole
        self._at[block.start] = block
        return block

    def _split(self, block: Block, size: int) -> None:
        rest = block.size - size
        if rest < _ROUND if block.small else rest <= _SMALL:
            return
        other = Block(rest, block.start + size, block.small, before=block, after=block.after)
        if block.after is not None:
            block.after.before = other
        block.size, block.after = size, other
        self._at[other.start] = other
        self._give(other)

    def _give(self, block: Block) -> None:
        block.free = True
        insort(self._free[block.small], (block.size, block.start))

    def _take(self, block: Block) -> None:
        pool = self._free[block.small]
        pool.pop(bisect_left(pool, (block.size, block.start)))

    def release(self, block: Block) -> None:
        """Give a block back; it joins free neighbours of its segment."""
        self.allocated_bytes -= block.size
        after, before = block.after, block.before
        if after is not None and after.free:
            self._take(after)
            self._join(block, after)
        if before is not None and before.free:
            self._take(before)
            self._join(before, block)
            block = before
        self._give(block)

    def _join(self, first: Block, second: Block) -> None:
        first.size += second.size
        first.after = second.after
        if second.after is not None:
            second.after.before = first
        del self._at[second.start]
