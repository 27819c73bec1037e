"""Errors that desim raises on purpose, each naming what the user can change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class DesimError(Exception):
    """Base of every error that desim raises on purpose."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong with a scenario.

    `path` is the dotted path inside the scenario, `value` what stands there (already shortened),
    `rule` the rule that it breaks with its arithmetic, `hint` the nearest valid choice (may be
    empty), `file` and `line` where it is written (line 0: unknown).
    """

    path: str
    rule: str
    value: str = ""
    hint: str = ""
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        where = (
            f"{self.file}:{self.line}: " if self.line else (f"{self.file}: " if self.file else "")
        )
        path = f"{self.path}: " if self.path else ""
        given = f" (got {self.value})" if self.value else ""
        hint = f"; {self.hint}" if self.hint else ""
        return f"{where}{path}{self.rule}{given}{hint}"


class SpecError(DesimError):
    """A scenario that cannot be run as written; lists every mistake found at once."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(str(mistake) for mistake in self.mistakes))


class DeadlockError(DesimError):
    """A program that cannot finish: the message says who waits for whom."""
