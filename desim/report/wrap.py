"""Lists as lines of text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WIDTH = 100


def wrapped(head: str, parts: Sequence[str], joint: str = ", ", indent: int = 4) -> Iterator[str]:
    """Yield parts joined by `joint` behind a head, on as many lines as they need."""
    line, empty = head, True
    for number, part in enumerate(parts):
        text = part + (joint if number < len(parts) - 1 else "")
        if len(line) + len(text.rstrip()) > WIDTH and not empty:
            yield line.rstrip()
            line = " " * indent
        line, empty = line + text, False
    yield line.rstrip()
