"""The pool keeps the order and loses no item, whatever happens to a process."""

from __future__ import annotations

import os
import time
from multiprocessing import active_children

import pytest

from desim.pool import Pool


def double(item: int) -> int:
    return 2 * item


def die_on_three(item: int) -> int:
    if item == 3:
        os._exit(1)
    return 2 * item


def lost(item: int) -> int:
    return -item


def never(result: int) -> bool:
    return False


def test_results_come_in_the_order_of_items() -> None:
    finished: list[float] = []
    pool = Pool(1, double, lost, never)
    assert pool.map([3, 1, 2], float, finished.append) == [6, 2, 4]
    assert finished == [3.0, 2.0, 1.0]
    assert pool.map([], float, finished.append) == []


def test_an_item_that_kills_its_process_loses_only_itself() -> None:
    pool = Pool(2, die_on_three, lost, never)
    assert pool.map([1, 2, 3, 4], float, lambda work: None) == [2, 4, -3, 8]


def sleep_long(item: int) -> int:
    if item == 1:
        return item
    time.sleep(60)
    return -item


def test_an_interrupt_does_not_wait_for_work_under_way() -> None:
    """As Ctrl-C reaches this process alone: it ends at once, and so do the others."""

    def interrupt(work: float) -> None:
        raise KeyboardInterrupt

    began_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        Pool(2, sleep_long, lost, never).map([1, 2, 3], lambda item: -float(item), interrupt)
    assert time.monotonic() - began_s < 30
    assert active_children() == []
