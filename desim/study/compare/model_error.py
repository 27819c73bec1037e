"""The model's own error in the effect of a change, by what is changed."""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot
from pathlib import Path
from typing import TYPE_CHECKING, Any

from desim.spec.nodes import plain
from desim.spec.yaml_source import read_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

TABLE = Path(__file__).with_name("model_error.yaml")
_OTHERS = "default"


@dataclass(frozen=True, slots=True)
class Family:
    """Changes below one path: by how many points their effect may be off, and who says so."""

    path: str
    points: float
    source: str


def families(table: Path = TABLE) -> list[Family]:
    """Read the table: the median differences from published effects, by the path changed."""
    return [_family(str(path), row) for path, row in plain(read_file(table)).items()]


def _family(path: str, row: Mapping[str, Any]) -> Family:
    pairs = "1 published pair" if row["pairs"] == 1 else f"{row['pairs']} published pairs"
    source = f"{pairs} of {', '.join(row['source'])}"
    return Family("" if path == _OTHERS else path, float(row["median_points"]), source)


def families_of(paths: Iterable[str], known: Sequence[Family]) -> dict[Family, list[str]]:
    """Return the families that changes at `paths` belong to, each with its paths."""
    found: dict[Family, list[str]] = {}
    for path in paths:
        fits = [f for f in known if not f.path or f"{path}.".startswith(f"{f.path}.")]
        found.setdefault(max(fits, key=lambda f: len(f.path)), []).append(path)
    return found


def error_points(changed: Iterable[Family]) -> float:
    """Return the error of changes in several families: they are independent, their squares add."""
    return hypot(*(family.points for family in changed))
