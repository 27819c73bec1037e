"""Readings: what people found out about errors, written by hand beside the measurements."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from desim.errors import Mistake, SpecError
from desim.spec.nodes import plain
from desim.spec.text_file import shown
from desim.spec.yaml_source import read_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NAME = "readings.yaml"
_KEYS = ("rows", "families", "left_out")


@dataclass(frozen=True, slots=True)
class Readings:
    """Texts by row (a pattern of ids) and by family; errors of families left out of the fit.

    `left_out` holds for each family `median`, `mape`, `p90` and `bias` of its rows when the
    constants of whole steps are refitted without it; fractions.
    """

    rows: Mapping[str, str] = field(default_factory=dict)
    families: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def of(self, row: str, family: str) -> str:
        """Return what is known about a row, else about its family, else nothing."""
        for pattern, text in self.rows.items():
            if fnmatchcase(row, pattern):
                return text
        return self.families.get(family, "")


def read_readings(beside: Path) -> Readings:
    """Read `readings.yaml` in the folder of `beside`; none there is no mistake.

    Raises SpecError where it is not of the form that `Readings` says.
    """
    file = beside.parent / NAME
    if not file.is_file():
        return Readings()
    data: Any = plain(read_file(file))
    mistakes = []
    if not isinstance(data, dict):
        mistakes.append(_mistake(file, "", "must hold a mapping", data))
        data = {}
    for key, value in data.items():
        if key not in _KEYS:
            mistakes.append(_mistake(file, key, f"there are {', '.join(_KEYS)}", key))
        elif not isinstance(value, dict):
            mistakes.append(_mistake(file, key, "must be a mapping", value))
        elif key != "left_out":
            bad = [name for name, text in value.items() if not isinstance(text, str)]
            mistakes += [_mistake(file, f"{key}.{name}", "must be text", "") for name in bad]
    if mistakes:
        raise SpecError(mistakes)
    return Readings(**data)


def _mistake(file: Path, path: str, rule: str, value: object) -> Mistake:
    return Mistake(path, rule, str(value)[:40], file=shown(file))
