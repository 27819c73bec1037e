"""PyTorch's caching allocator: laws, and its rules on small examples."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from desim.plan.allocator import Allocator
from desim.plan.reserve import outside_bytes, reserved_bytes
from tests.jobs import job, play

MIB = 2**20


@pytest.mark.parametrize(
    ("size", "allocated", "reserved"),
    [
        (1, 512, 2 * MIB),
        (MIB, MIB, 2 * MIB),
        (MIB + 1, MIB + 512, 20 * MIB),
        (10 * MIB, 10 * MIB, 10 * MIB),
        (11 * MIB, 12 * MIB, 12 * MIB),  # 1 MiB is not worth splitting off
        (10.5 * MIB + 1, 10.5 * MIB + 512, 12 * MIB),
    ],
)
def test_sizes_of_segments(size: float, allocated: float, reserved: float) -> None:
    allocator = Allocator()
    allocator.allocate(size)
    assert (allocator.allocated_bytes, allocator.reserved_bytes) == (allocated, reserved)


@given(st.lists(st.tuples(st.integers(1, 64 * MIB), st.booleans()), max_size=60))
def test_reserved_memory_covers_what_is_allocated(steps: list[tuple[int, bool]]) -> None:
    """At every step, whatever was freed before; and all that is freed comes back."""
    allocator = Allocator()
    for _ in range(2):
        blocks = []
        for size, free in steps:
            blocks.append(allocator.allocate(size))
            if free:
                allocator.release(blocks.pop(len(blocks) // 2))
            assert allocator.allocated_bytes <= allocator.reserved_bytes
        for block in blocks:
            allocator.release(block)
        assert allocator.allocated_bytes == 0


def test_a_hole_that_is_too_small_is_not_used() -> None:
    """20 MiB between two blocks of one segment cannot hold 24 MiB."""
    allocator = Allocator()
    whole = allocator.allocate(60 * MIB)
    allocator.release(whole)
    parts = [allocator.allocate(20 * MIB) for _ in range(3)]
    assert allocator.reserved_bytes == 60 * MIB
    allocator.release(parts[1])
    allocator.allocate(24 * MIB)
    assert allocator.reserved_bytes == 84 * MIB


def test_a_rank_needs_more_than_it_allocates() -> None:
    """Reserved covers the peak by less than a tenth; NCCL adds a communicator per group."""
    alone, split = (
        play(job(cluster__devices=devices, parallel={"tensor": devices})) for devices in (1, 2)
    )
    memory = alone.record.memory[0]
    assert memory.peak_bytes <= memory.reserved_bytes < 1.1 * memory.peak_bytes
    assert memory.needed_bytes == memory.reserved_bytes + memory.outside_bytes
    assert memory.outside_bytes == 0.5 * 2**30
    assert split.record.memory[0].outside_bytes > memory.outside_bytes
    plan = split.plan
    assert split.record.memory[0].reserved_bytes == reserved_bytes(plan.ledgers[0])
    found = outside_bytes(plan.context, plan.programs[0])
    assert split.record.memory[0].outside_bytes == found
