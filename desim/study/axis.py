"""A path of a scenario that is varied, and how its values are put over a scenario."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Axis:
    """A path of a scenario and the values that it takes; `line` is where a file says so."""

    path: str
    values: tuple[Any, ...]
    line: int = 0


def override(path: str, value: Any) -> str:
    """Return `path=value` as `--set` takes it, for any value that YAML can hold."""
    return f"{path}={json.dumps(value, ensure_ascii=False)}"


def same(value: Any, values: tuple[Any, ...]) -> bool:
    """Whether a value is one of some; 1 and true are told apart."""
    return any(
        value == other and isinstance(value, bool) == isinstance(other, bool) for other in values
    )
