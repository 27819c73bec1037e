"""Work on all cores: longest first, results in the order of the items, no item ends the run."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import active_children
from typing import TYPE_CHECKING, Generic, TypeVar

from desim.errors import Mistake, SpecError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

T = TypeVar("T")
R = TypeVar("R")
_SHARE_OF_MEMORY = 0.9
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def processes_of(jobs: int | None = None) -> int:
    """Return a number of processes: all cores where left out; raises SpecError below 1."""
    if jobs is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    if jobs < 1:
        raise SpecError([Mistake("--jobs", "must be at least 1", str(jobs))])
    return jobs


@dataclass(frozen=True, slots=True)
class Pool(Generic[T, R]):
    """How items are worked on.

    `work` is called on each item in one of `processes` processes (1: in this one). An item whose
    process dies, or of which `hungry(result)` says that it ran out of memory, is tried again with
    the machine to itself; one that kills its process again becomes `lost(item)`.
    """

    processes: int
    work: Callable[[T], R]
    lost: Callable[[T], R]
    hungry: Callable[[R], bool]

    def map(
        self,
        items: Sequence[T],
        cost: Callable[[T], float],
        done: Callable[[float], None],
        finished: Callable[[int, R], None] | None = None,
    ) -> list[R]:
        """Return the results in the order of `items`; `done` is told the cost of each finished.

        `finished` is called here with the number and result of each item as soon as it has ended.
        """
        order = sorted(range(len(items)), key=lambda i: (-cost(items[i]), i))
        results: dict[int, R] = {}

        def keep(number: int, result: R) -> None:
            results[number] = result
            if finished is not None:
                finished(number, result)
            done(cost(items[number]))

        processes = min(self.processes, len(items))
        if processes <= 1:
            for number in order:
                keep(number, self.work(items[number]))
            return [results[number] for number in range(len(items))]
        alone: list[int] = []
        while order:
            alone += self._round(items, order, processes, keep)
        for number in alone:
            if self._round(items, [number], 1, keep):
                keep(number, self.lost(items[number]))
        return [results[number] for number in range(len(items))]

    def _round(
        self,
        items: Sequence[T],
        order: list[int],
        processes: int,
        keep: Callable[[int, R], None],
    ) -> list[int]:
        """Work on items in fresh processes until there are none left or a process dies.

        Takes what it works on from the front of `order` and returns what has to be tried alone: no
        more is handed out than there are processes, so that few are under suspicion.
        """
        again: list[int] = []
        pending: dict[Future[R], int] = {}
        broken = False
        with (
            ProcessPoolExecutor(processes, initializer=_begin, initargs=(processes,)) as pool,
            _ended_with_this_one(),
        ):
            while pending or (order and not broken):
                while order and len(pending) < processes and not broken:
                    try:
                        pending[pool.submit(self.work, items[order[0]])] = order[0]
                    except BrokenProcessPool:
                        broken = True
                    else:
                        order.pop(0)
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    number = pending.pop(future)
                    result = _result(future)
                    broken = broken or result is None
                    if result is None or (processes > 1 and self.hungry(result[0])):
                        again.append(number)
                    else:
                        keep(number, result[0])
        return again


@contextmanager
def _ended_with_this_one() -> Iterator[None]:
    """End the processes started inside when the work is interrupted: a pool would wait for them."""
    before = set(active_children())
    try:
        yield
    except BaseException:
        for child in set(active_children()) - before:
            child.terminate()
        raise


def _result(future: Future[R]) -> tuple[R] | None:
    """The result of an item, None where its process died."""
    try:
        return (future.result(),)
    except BrokenProcessPool:
        return None


def _begin(processes: int) -> None:
    """Prepare a process: it ends at Ctrl-C without a word, and with the process that started it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _limit_memory(processes)
    if sys.platform == "linux":
        # Else it would wait for work for ever once its parent is killed.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _limit_memory(processes: int) -> None:
    """Let a process that takes more than its share fail, instead of the machine."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    share = int(total * _SHARE_OF_MEMORY / processes)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = share if hard == resource.RLIM_INFINITY else min(share, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
