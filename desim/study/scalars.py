"""The scalars of a summary, as columns of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Not results of a scenario: what it is called, and what was spent on it.
_LEFT_OUT = ("name", "events", "simulate_wall_s")


def scalars(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scalars of a summary, those of nested mappings with dots in their names.

    Of bytes by stage `.max` is the largest.
    """
    result: dict[str, Any] = {}
    for key, value in summary.items():
        if key not in _LEFT_OUT:
            _flatten(key, value, result)
    return result


def _flatten(key: str, value: Any, result: dict[str, Any]) -> None:
    if isinstance(value, Mapping):
        if key.endswith("_bytes") and value:
            result[f"{key}.max"] = max(value.values())
        for below, part in value.items():
            _flatten(f"{key}.{below}", part, result)
    elif isinstance(value, (bool, int, float, str)):
        result[key] = value
