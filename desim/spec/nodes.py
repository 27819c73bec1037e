"""A scenario as it was written: plain values that remember their file and line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

Scalar: TypeAlias = str | int | float | bool | None
Path: TypeAlias = tuple[str | int, ...]


@dataclass(slots=True)
class Node:
    """One written value, the file that it stands in and its line (0: unknown)."""

    value: Scalar | dict[str, Node] | list[Node]
    file: str = ""
    line: int = 0


def plain(node: Node) -> Any:
    """Return the value of `node` without its locations."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return node.value


def copied(node: Node) -> Node:
    """Return nodes of its own, which can be changed, for all of `node`."""
    value = node.value
    if isinstance(value, dict):
        return Node({key: copied(below) for key, below in value.items()}, node.file, node.line)
    if isinstance(value, list):
        return Node([copied(item) for item in value], node.file, node.line)
    return Node(value, node.file, node.line)


def from_plain(value: Any, file: str = "", line: int = 0) -> Node:
    """Build nodes that all stand at one place from plain values; refuses what YAML cannot hold."""
    if isinstance(value, Mapping):
        return Node({str(k): from_plain(v, file, line) for k, v in value.items()}, file, line)
    if isinstance(value, (list, tuple)):
        return Node([from_plain(item, file, line) for item in value], file, line)
    if value is None or isinstance(value, (str, int, float, bool)):
        return Node(value, file, line)
    raise TypeError(f"a {type(value).__name__} cannot stand in a scenario")


def child(node: Node, key: str | int) -> Node | None:
    """Return the node under `key`, or None where there is none."""
    if isinstance(node.value, dict):
        return node.value.get(str(key))
    if isinstance(node.value, list) and isinstance(key, int) and 0 <= key < len(node.value):
        return node.value[key]
    return None


def nearest(root: Node, path: Path) -> tuple[Node, int]:
    """Return the deepest node on `path` that exists, and how many keys lead to it."""
    node = root
    for depth, key in enumerate(path):
        below = child(node, key)
        if below is None:
            return node, depth
        node = below
    return node, len(path)


def merge(base: Node, changes: Node) -> Node:
    """Return `base` with the keys of `changes` put over it, mapping by mapping."""
    if not isinstance(base.value, dict) or not isinstance(changes.value, dict):
        return changes
    merged = dict(base.value)
    for key, value in changes.value.items():
        merged[key] = merge(merged[key], value) if key in merged else value
    return Node(merged, changes.file, changes.line)


def dotted(path: Path) -> str:
    """Write a path as the user would: `parallel.tensor`, `disturb.0.compute`."""
    return ".".join(str(key) for key in path)
