"""`--set path=value`: change one value of a scenario as it was written."""

from __future__ import annotations

from dataclasses import replace

from desim.errors import Mistake, SpecError
from desim.spec.catalogue import SLOTS, Catalogue
from desim.spec.nodes import Node, Path, child, dotted
from desim.spec.schema import annotation_at, is_list, suggest_key, valid_keys
from desim.spec.yaml_source import read_text


def apply(root: Node, override: str, catalogue: Catalogue) -> None:
    """Put one `path=value` over `root`; raises SpecError where path or value cannot be read.

    A path that descends into a catalogue name expands the name first.
    """
    shown = f"--set {override if len(override) <= 60 else override[:57] + '...'}"
    written, equals, text = override.partition("=")
    path = _parse_path(written)
    if not equals or not path:
        raise SpecError(
            [Mistake("", "must be PATH=VALUE", hint="as in parallel.tensor=4", file=shown)]
        )
    if not text.strip():
        raise SpecError([Mistake(dotted(path), "needs a value after '='", file=shown)])
    try:
        value = _relocate(read_text(text, shown), shown)
    except SpecError as error:
        raise SpecError([replace(m, path=dotted(path), line=0) for m in error.mistakes]) from None
    parent = _descend(root, path, catalogue, shown)
    _put(parent, path, value, shown)


def _parse_path(written: str) -> Path:
    parts = written.strip().split(".")
    if not all(parts):
        return ()
    return tuple(int(part) if part.isdecimal() else part for part in parts)


def _relocate(node: Node, shown: str) -> Node:
    """Values from the command line have a source but no line."""
    if isinstance(node.value, dict):
        value = {key: _relocate(below, shown) for key, below in node.value.items()}
        return Node(value, shown)
    if isinstance(node.value, list):
        return Node([_relocate(item, shown) for item in node.value], shown)
    return Node(node.value, shown)


def _descend(root: Node, path: Path, catalogue: Catalogue, shown: str) -> Node:
    """Return the node that holds the last key of `path`, expanded and created where needed."""
    node = root
    for depth, key in enumerate(path[:-1]):
        here = path[: depth + 1]
        below = child(node, key)
        if below is None:
            _check(root, here, path, shown)
            below = Node([] if is_list(root, here) else {}, shown)
            _put(node, here, below, shown)
        if here in SLOTS and _names_another(below):
            expanded = catalogue.expand(below, SLOTS[here], here)
            below.value, below.file, below.line = expanded.value, expanded.file, expanded.line
            if below.value is None:
                # The catalogue has noted why; there is nothing to put the value into.
                raise SpecError(())
        if not isinstance(below.value, (dict, list)):
            if not valid_keys(root, here):
                rule = f"{dotted(here)} is one value, nothing is below it"
                raise SpecError([Mistake(dotted(path), rule, repr(below.value), file=shown)])
            below.value = {}
        node = below
    _check(root, path, path, shown)
    return node


def _names_another(node: Node) -> bool:
    return isinstance(node.value, str) or (isinstance(node.value, dict) and "base" in node.value)


def _check(root: Node, here: Path, path: Path, shown: str) -> None:
    """Refuse a path that is not one of a scenario, naming the nearest that is."""
    if annotation_at(root, here) is None:
        hint = suggest_key(root, here, path[len(here) :])
        rule = "no such path in a scenario"
        raise SpecError([Mistake(dotted(path), rule, hint=hint, file=shown)])


def _put(parent: Node, path: Path, value: Node, shown: str) -> None:
    key = path[-1]
    if isinstance(parent.value, list):
        if not isinstance(key, int) or key >= len(parent.value):
            count = len(parent.value)
            raise SpecError(
                [
                    Mistake(
                        dotted(path),
                        f"the list has {count} entries, counted from 0",
                        str(key),
                        file=shown,
                    )
                ]
            )
        parent.value[key] = value
    elif isinstance(parent.value, dict):
        parent.value[str(key)] = value
