"""PyTorch's caching allocator: laws, and its rules on small examples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from desim.plan.allocator import Allocator
from desim.plan.ledger import Ledger
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


def ledger(*events: tuple[int, int, float]) -> Ledger:
    """Places in the program, owners (0 or 1), and MiB that these take or give back there."""
    task, owner, change = (np.array(column) for column in zip(*events, strict=True))
    moving = np.cumsum(change * (owner == [[0], [1]]), axis=1) * MIB
    return Ledger(
        owners=("workspace", "activations"),
        task=np.array([0, *task]),
        by_owner=np.concatenate([np.zeros((2, 1)), moving], axis=1),
        peak_index=0,
        owner=owner,
        change=change * MIB,
        fixed_bytes=0.0,
    )


def test_what_is_kept_of_a_result_is_its_block() -> None:
    """The 48 MiB that activations take at place 2 are those of the result given back there."""
    kept = [(1, 0, 48.0), (2, 1, 48.0), (2, 0, -48.0), (3, 0, 48.0), (4, 0, -48.0)]
    assert reserved_bytes(ledger(*kept, (5, 1, -48.0))) == 96 * MIB


def test_what_is_taken_and_given_back_at_one_place_is_not_held() -> None:
    assert reserved_bytes(ledger((1, 0, 48.0), (1, 0, -48.0), (2, 0, 48.0))) == 48 * MIB


def test_the_end_of_the_step_is_played_however_long_the_step() -> None:
    """Blocks of many passes are free by then; only a larger one comes on top of them."""
    passes = [(place, 0, size) for place in range(4000) for size in (20.0, -20.0)]
    end = [(4000, 0, 12.0), (4001, 0, -12.0), (4002, 0, 64.0), (4003, 0, -64.0)]
    assert reserved_bytes(ledger(*passes, *end)) == 84 * MIB


def test_gradients_that_are_copied_to_be_reduced_take_a_bucket_more() -> None:
    changes = {"overlap": {"grad_reduce": "none"}, "bucket": "2 GB", "bucket_copies": True}
    base = {"cluster__devices": 8, "workload__global_batch": 8}
    plain, copied = (
        play(job(**base, policies={**changes, "bucket_copies": copies})).record.memory[0]
        for copies in (False, True)
    )
    assert copied.reserved_bytes > plain.reserved_bytes
    assert copied.reserved_bytes - plain.reserved_bytes <= 2e9 + 2 * MIB
