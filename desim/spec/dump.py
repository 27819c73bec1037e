"""Scenarios back to YAML: complete, without names to look up, and equal when read again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from desim.spec.scenario import Scenario

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./+-]*(?: [A-Za-z0-9_./+-]+)*|[0-9.]+ [A-Za-z/]+")
_NOT_TEXT = {"null", "true", "false", "y", "n", "yes", "no", "on", "off"}


def dump_scenario(scenario: Scenario) -> str:
    """Write a scenario as YAML with every value in it, quantities with their units."""
    data = scenario.model_dump(mode="json", by_alias=True, exclude_none=True)
    return "\n".join(dump_mapping(data)) + "\n"


def dump_mapping(data: dict[str, Any], depth: int = 0) -> Iterator[str]:
    """Yield the lines of a mapping as YAML, a key per line, lists on one line."""
    indent = "  " * depth
    for key, value in data.items():
        if isinstance(value, dict) and value:
            yield f"{indent}{_text(key)}:"
            yield from dump_mapping(value, depth + 1)
        else:
            yield f"{indent}{_text(key)}: {_inline(value)}"


def _inline(value: Any) -> str:
    """Write a value on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_text(k)}: {_inline(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_inline(item) for item in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    return repr(value)


def _text(value: str) -> str:
    """Write text, quoted unless it is plainly a word or a quantity."""
    if len(value) <= 80 and _PLAIN.fullmatch(value) and value.lower() not in _NOT_TEXT:
        return value
    return '"' + "".join(_escaped(character) for character in value) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    code = ord(character)
    if 0x20 <= code < 0x7F:
        return character
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
