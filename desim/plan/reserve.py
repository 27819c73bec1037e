"""What a rank takes of its device beyond what is allocated: the allocator's, and others'."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from desim.plan.allocator import Allocator
from desim.plan.tables import FAMILY, SLOTS

if TYPE_CHECKING:
    from desim.plan.allocator import Block
    from desim.plan.context import Context
    from desim.plan.ledger import Ledger
    from desim.plan.program import Program

#: Events of the ledger that are played after the peak: later micro-batches repeat earlier ones.
_AFTER_PEAK = 1000

#: Buffers of one connection of one NCCL channel: Simple 4 MiB, LL 512 KiB, LL128 4.7 MiB (NCCL 2.x
#: defaults: NCCL_BUFFSIZE, 8 lines x 512 threads x 8 steps x 16 B, 120 x 640 x 8 x 8 B).
CONNECTION_BYTES = 4_194_304 + 524_288 + 4_915_200


def reserved_bytes(ledger: Ledger) -> float:
    """Return what the caching allocator has reserved at the end of the step.

    The ledger's allocations and frees are played through the allocator up to the peak and a little
    further. What a rank holds all the time came first, in segments of its own.
    """
    allocator = Allocator()
    held: dict[int, list[tuple[float, Block]]] = {}
    stop = ledger.peak_index + _AFTER_PEAK
    owners, changes = ledger.owner[:stop].tolist(), ledger.change[:stop].tolist()
    for owner, change in zip(owners, changes, strict=True):
        blocks = held.setdefault(owner, [])
        if change > 0:
            blocks.append((change, allocator.allocate(change)))
        else:
            _free(allocator, blocks, -change)
    return ledger.fixed_bytes + allocator.reserved_bytes


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
    device = context.scenario.cluster.system.device
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
