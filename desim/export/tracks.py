"""Counters of a Chrome trace: memory by owner of each rank class, utilisation of each link."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from desim.analyze.links import utilisation
from desim.analyze.memory import sampled
from desim.export.events import counter, metadata, rounded_ns
from desim.export.titles import titled_links

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from desim.record import LinkClass, Memory, Record

#: The process of the link counters; rank classes are numbered from 1.
LINKS_PID = 1000
#: Samples of one memory owner, and of all links together.
_MAX_SAMPLES, _MAX_LINK_SAMPLES = 4000, 400_000


def counter_events(
    record: Record, pids: Mapping[int, int], links_pid: int = LINKS_PID, prefix: str = ""
) -> Iterator[str]:
    """Yield the counters' events as text, in the process of each drawn class and one for links.

    `pids` are the processes of the drawn classes; `prefix` begins the name of the links' process.
    """
    for index, pid in pids.items():
        if index < len(record.memory):
            yield from _memory_events(record.memory[index], pid)
    links = list(titled_links(record))
    if links:
        yield metadata("process_name", links_pid, 0, {"name": f"{prefix}links"})
        yield metadata("process_sort_index", links_pid, 0, {"sort_index": links_pid})
    for title, link in links:
        yield link_events(title, link, max(_MAX_LINK_SAMPLES // len(links), 1000), links_pid)


def _memory_events(memory: Memory, pid: int) -> Iterator[str]:
    """Yield a sample for each owner where it changes, in GiB."""
    if not len(memory.time_ps):
        return
    kept = sampled(memory, _MAX_SAMPLES)
    # The ledger runs in issue order; the device may reach tasks of two lanes in another.
    times = rounded_ns(np.maximum.accumulate(memory.time_ps)[kept])
    for owner, row in zip(memory.owners, memory.by_owner[:, kept] / 2**30, strict=True):
        changed = np.flatnonzero(np.append(True, row[1:] != row[:-1]))
        yield counter(pid, "memory GiB", owner, row[changed], times[changed])


def link_events(title: str, link: LinkClass, most: int, pid: int = LINKS_PID) -> str:
    """Return the utilisation in percent: every change of it, or its mean in `most` equal times."""
    time_ps, share = link.time_ps, link.rate_bytes_per_s / link.capacity_bytes_per_s
    if len(time_ps) > most:
        edges = np.linspace(time_ps[0], time_ps[-1], most + 1)
        time_ps, share = edges.astype(np.int64), np.append(utilisation(link, edges), share[-1])
    changed = np.flatnonzero(np.append(True, share[1:] != share[:-1]))
    return counter(pid, title, "%", share[changed] * 100, rounded_ns(time_ps[changed]))
