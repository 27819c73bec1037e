"""Attempts at many scenarios, of which none ends the others: what is said where one fails."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from desim.errors import SpecError

NO_MEMORY = "this machine has too little memory to play it"
LOST = "its process died while it was played"


@contextmanager
def uncollected() -> Iterator[None]:
    """Leave cycles alone while the block runs, then collect the young ones.

    A run makes millions of objects and no cycles to speak of.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
            gc.collect(0)


def first_mistake(error: SpecError) -> str:
    """Return the first mistake, and how many more there are."""
    first, *more = error.mistakes
    also = f" (and {len(more)} more)" if more else ""
    return f"{first}{also}"


def fault(error: Exception) -> str:
    """Return the kind of an error that nobody foresaw and what it says, on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
