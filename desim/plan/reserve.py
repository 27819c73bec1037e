"""What a rank takes of its device beyond what is allocated: the allocator's, and others'."""

from __future__ import annotations

from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from desim.plan.allocator import Allocator
from desim.plan.tables import FAMILY, SLOTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from desim.plan.allocator import Block
    from desim.plan.context import Context
    from desim.plan.ledger import Ledger
    from desim.plan.program import Program

    _Held = dict[int, list[tuple[float, Block]]]

#: Events of the ledger that are played after the peak: later micro-batches repeat earlier ones.
_AFTER_PEAK = 1000

#: Events of the ledger among which the end of the step is looked for.
_AT_THE_END = 200

#: Buffers of one connection of one NCCL channel: Simple 4 MiB, LL 512 KiB, LL128 4.7 MiB (NCCL 2.x
#: defaults: NCCL_BUFFSIZE, 8 lines x 512 threads x 8 steps x 16 B, 120 x 640 x 8 x 8 B).
CONNECTION_BYTES = 4_194_304 + 524_288 + 4_915_200


#: Ledgers whose reserve is kept: those of the stages of a few scenarios.
_REMEMBERED = 64


class _Moves(NamedTuple):
    """Allocations and frees of a ledger: their place in the program, owner and bytes."""

    place: NDArray[np.int64]
    owner: NDArray[np.int64]
    change: NDArray[np.float64]


def reserved_bytes(ledger: Ledger) -> float:
    """Return what the caching allocator has reserved at the end of the step.

    The ledger's allocations and frees are played through the allocator up to the peak and a little
    further, then those of the end of the step, where gradients are reduced and parameters updated.
    What a rank holds all the time came first, in segments of its own.
    """
    opens = np.diff(ledger.task) != 0
    parts = (opens.tobytes(), ledger.owner.tobytes(), ledger.change.tobytes())
    return ledger.fixed_bytes + _taken(*parts, ledger.peak_index)


@lru_cache(maxsize=_REMEMBERED)
def _taken(opens: bytes, owner: bytes, change: bytes, peak_index: int) -> float:
    """What the allocator reserves for allocations and frees, of which `opens` a place.

    Scenarios of a study often hold the same at the same times.
    """
    moves = _Moves(
        np.cumsum(np.frombuffer(opens, dtype=np.bool_)),
        np.frombuffer(owner, dtype=np.int64),
        np.frombuffer(change),
    )
    allocator = Allocator()
    begin, stop = _end_of_step(moves.change), peak_index + _AFTER_PEAK
    held: _Held = {}
    if begin <= stop:
        _play(allocator, _events(moves, 0, len(moves.change)), held)
    else:
        _play(allocator, _events(moves, 0, stop), held)
        for blocks in held.values():
            for _, block in blocks:
                allocator.release(block)
        _play(allocator, _events(moves, begin, len(moves.change)), {})
    return allocator.reserved_bytes


def _end_of_step(change: NDArray[np.float64]) -> int:
    """Return the event with which the end of the step begins, 0 where it cannot be told.

    It is the first of the last events after as little is held as after the very last.
    """
    left = np.cumsum(change)
    first = max(len(left) - _AT_THE_END, 0)
    settled = np.flatnonzero(left[first:] <= left[-1:] + 0.5)
    return first + int(settled[0]) + 1 if first and len(settled) else 0


def _events(moves: _Moves, begin: int, end: int) -> Iterator[tuple[int, float]]:
    """Yield owners and sizes of some of the allocations and frees.

    What is kept of what a task made is the block that the task wrote: what one owner gives back at
    a place of the program comes before what others take there, so that they take that block.
    """
    part = slice(begin, end)
    places = moves.place[part].tolist()
    rows = zip(places, moves.owner[part].tolist(), moves.change[part].tolist(), strict=True)
    for _, here in groupby(rows, key=itemgetter(0)):
        taken: set[int] = set()
        later: list[tuple[int, float]] = []
        for _, owner, change in here:
            if change < 0 and owner not in taken:
                yield owner, change
            else:
                taken.add(owner)
                later.append((owner, change))
        yield from later


def _play(allocator: Allocator, events: Iterable[tuple[int, float]], held: _Held) -> None:
    """Take and free blocks; `held` is what each owner has of them."""
    for owner, change in events:
        blocks = held.setdefault(owner, [])
        if change > 0:
            blocks.append((change, allocator.allocate(change)))
        else:
            _free(allocator, blocks, -change)


def _free(allocator: Allocator, blocks: list[tuple[float, Block]], size: float) -> None:
    """Free the youngest block of this size, or else the youngest blocks up to it."""
    for index in range(len(blocks) - 1, -1, -1):
        if blocks[index][0] == size:
            allocator.release(blocks.pop(index)[1])
            return
    while size >= 1 and blocks:
        youngest, block = blocks.pop()
        allocator.release(block)
        if youngest > size:
            rest = youngest - size
            blocks.append((rest, allocator.allocate(rest)))
        size -= youngest


def outside_bytes(context: Context, program: Program) -> float:
    """Return what the driver and NCCL take of the device beside the allocator.

    Every communicator has one connection per channel into each rank of a ring; messages have
    one for each direction that is received. A channel is a block of threads on one SM. Before NCCL
    2.22 (release notes: connections on first use) its tree is connected too, at least from a parent
    and from a child.
    """
    device = context.system.device
    used = np.unique(program.comm[program.comm >= 0])
    slots = {SLOTS[op.slot] for number, op in enumerate(context.tables.comms) if number in used}
    channels = max(device.communication.nvlink_sms, device.communication.network_sms)
    context_bytes = context.scenario.kernels.context_bytes
    total = device.context_bytes if context_bytes is None else context_bytes
    connections = 1 if context.scenario.kernels.nccl_at_least(2, 22) else 3
    for slot in slots:
        if slot.startswith("recv"):
            total += device.communication.message_sms * CONNECTION_BYTES
        elif FAMILY[slot] == slot and not slot.startswith("send"):
            total += connections * channels * CONNECTION_BYTES
    return total
