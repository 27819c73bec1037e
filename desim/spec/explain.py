"""Validation errors in plain words, each at the place where the value was written."""

from __future__ import annotations

import difflib
import math
from typing import TYPE_CHECKING, Any

from desim.errors import Mistake
from desim.spec.nodes import Node, Path, child, dotted, nearest, plain
from desim.spec.schema import kinds_at, suggest_key, valid_keys

if TYPE_CHECKING:
    from collections.abc import Sequence

_WORDS = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "finite_number": "must be a finite number",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping of keys to values",
    "model_type": "must be a mapping of keys to values",
    "model_attributes_type": "must be a mapping of keys to values",
}
_BOUNDS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def explain(errors: Sequence[Any], root: Node) -> list[Mistake]:
    """Turn pydantic's error list into mistakes with places, rules and hints, one per value."""
    gathered: dict[Path, list[tuple[str, str]]] = {}
    for error in errors:
        path = written_path(error, root)
        words = _rule(error, path, root)
        rules = gathered.setdefault(path, [])
        if words not in rules:
            rules.append(words)
    return [_join(path, rules, root) for path, rules in gathered.items()]


def written_path(error: Any, root: Node) -> Path:
    """Return the path of an error as it stands in the file, without union member names."""
    loc = tuple(part for part in error["loc"] if part != "[key]")
    node: Node | None = root
    path: list[str | int] = []
    for place, part in enumerate(loc):
        below = child(node, part) if node is not None else None
        if below is not None:
            path.append(part)
            node = below
        elif place == len(loc) - 1 and error["type"] in ("missing", "extra_forbidden"):
            path.append(part)
    if error["type"] == "union_tag_invalid" and node is not None and child(node, "family"):
        path.append("family")
    return tuple(path)


def locate(path: Path, root: Node) -> tuple[str, int]:
    """Return file and line of the deepest written part of `path`."""
    node, _ = nearest(root, path)
    return node.file, node.line


def show_value(node: Node | None) -> str:
    """Write the value of a node for a message, shortened; empty for none."""
    if node is None:
        return ""
    value = plain(node)
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)
    text = "nothing" if value is None else text
    return text if len(text) <= 60 else f"{text[:57]}..."


def _join(path: Path, rules: list[tuple[str, str]], root: Node) -> Mistake:
    file, line = locate(path, root)
    node, depth = nearest(root, path)
    unknown = rules[0][0] == "unknown key"
    value = "" if unknown or depth < len(path) else show_value(node)
    rule = rules[0][0]
    for other, _ in [] if unknown else rules[1:]:
        rule += " or " + other.removeprefix("must be ")
    hint = next((hint for _, hint in rules if hint), "")
    return Mistake(dotted(path), rule, value, hint, file, line)


def _rule(error: Any, path: Path, root: Node) -> tuple[str, str]:
    """Return the rule that an error breaks and the nearest valid choice."""
    kind = str(error["type"])
    context = error.get("ctx") or {}
    if kind == "extra_forbidden" or "[key]" in error["loc"]:
        return "unknown key", suggest_key(root, path)
    if kind == "missing":
        return _missing(path, root)
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"must be {words} {_number(context[name])}", ""
    if kind == "literal_error":
        return _choice(str(context["expected"]), error["input"])
    if kind == "union_tag_invalid":
        return _choice(str(context["expected_tags"]).replace(", ", " or "), context["tag"])
    if kind == "union_tag_not_found":
        kinds = "; ".join(" and ".join(keys) for keys in kinds_at(root, path))
        return f"must have the keys of one kind: {kinds}", ""
    return _value_rule(error)


def _value_rule(error: Any) -> tuple[str, str]:
    """The rules that need nothing but the value."""
    kind, value = str(error["type"]), error["input"]
    context = error.get("ctx") or {}
    if kind == "value_error":
        return str(context.get("error", error["msg"])), ""
    if kind == "too_short" and context.get("max_length") is None:
        least = context["min_length"]
        return f"must hold at least {least} value{'s' if least > 1 else ''}", ""
    if kind in ("too_long", "too_short"):
        return f"must hold {context.get('max_length', context.get('min_length'))} values", ""
    if kind in ("int_type", "int_from_float", "float_type") and isinstance(value, float):
        if not math.isfinite(value):
            return "must be a finite number", ""
        return "must be a whole number", f"write {int(value)}" if value.is_integer() else ""
    hint = f"write [{value}]" if kind in ("list_type", "tuple_type") and _is_word(value) else ""
    return _WORDS.get(kind, str(error["msg"])), hint


def _is_word(value: object) -> bool:
    """Whether a value is one that a list in brackets can hold as it is written."""
    return isinstance(value, str) and value.isidentifier()


def _missing(path: Path, root: Node) -> tuple[str, str]:
    if path and isinstance(path[-1], int):
        return "is missing from the list", ""
    written = nearest(root, path[:-1])[0].value
    others = list(written) if isinstance(written, dict) else []
    valid = set(valid_keys(root, path[:-1]))
    stray = [key for key in others if key not in valid]
    close = difflib.get_close_matches(str(path[-1]), stray, n=1)
    return "key is missing", f"{close[0]!r} is written instead" if close else ""


def _choice(expected: str, given: object) -> tuple[str, str]:
    choices = [part.strip(" '") for part in expected.replace(" or ", ", ").split(", ")]
    close = difflib.get_close_matches(str(given).lower(), choices, n=1)
    listed = choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
    return f"must be {listed}", f"did you mean {close[0]!r}?" if close else ""


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)
