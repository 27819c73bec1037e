"""Counters of a Chrome trace: memory by owner of each rank class, utilisation of each link."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from desim.analyze.memory import sampled

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from desim.record import LinkClass, Memory, Record

#: The process of the link counters; rank classes are numbered from 1.
LINKS_PID = 1_000_000
#: A counter takes at most this many samples; more cannot be told apart on a screen.
MAX_SAMPLES = 4000


def counter_events(record: Record, chosen: Sequence[int]) -> Iterator[str]:
    """Yield the counters' events as text, one process per drawn class and one for all links."""
    for pid, index in enumerate(chosen, start=1):
        if index < len(record.memory):
            yield from _memory_events(record.memory[index], pid)
    used = [link for link in record.links if link.rate_bytes_per_s.any()]
    if used:
        for what, args in (
            ("process_name", {"name": "links"}),
            ("process_sort_index", {"sort_index": LINKS_PID}),
        ):
            event = {"ph": "M", "name": what, "pid": LINKS_PID, "tid": 0, "args": args}
            yield json.dumps(event) + ",\n"
    for link in used:
        yield from _link_events(link)


def _memory_events(memory: Memory, pid: int) -> Iterator[str]:
    """Yield a sample for each owner where it changes, in GiB."""
    if not len(memory.time_ps):
        return
    kept = sampled(memory, MAX_SAMPLES)
    # The ledger runs in issue order; the device may reach tasks of two lanes in another.
    times = np.maximum.accumulate(memory.time_ps)[kept] / 1e6
    for owner, row in zip(memory.owners, memory.by_owner[:, kept] / 2**30, strict=True):
        changed = np.flatnonzero(np.append(True, row[1:] != row[:-1]))
        head = f'{{"ph":"C","name":"memory GiB","pid":{pid},"args":{{{json.dumps(owner)}:'
        for time, value in zip(times[changed].tolist(), row[changed].tolist(), strict=True):
            yield f'{head}{value:.4f}}},"ts":{time:.3f}}},\n'


def _link_events(link: LinkClass) -> Iterator[str]:
    """Yield the utilisation in percent at (about evenly) chosen changes of the rate."""
    step = -(-len(link.time_ps) // MAX_SAMPLES)
    share = link.rate_bytes_per_s / link.capacity_bytes_per_s * 100
    starts = np.arange(0, len(share), step)
    highest = np.maximum.reduceat(share, starts)
    head = f'{{"ph":"C","name":{json.dumps(link.name)},"pid":{LINKS_PID},"args":{{"%":'
    for time, value in zip((link.time_ps[starts] / 1e6).tolist(), highest.tolist(), strict=True):
        yield f'{head}{value:.2f}}},"ts":{time:.3f}}},\n'
