"""Which keys a scenario may hold at a path, read off the spec models, for suggestions."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from desim.spec.nodes import Node, Path, child, dotted
from desim.spec.scenario import Scenario


def key_of(name: str, field: Any) -> str:
    """Return the key under which a field is written."""
    return field.alias or name


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the spec models that may stand where `annotation` is asked for."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    origin = get_origin(annotation)
    if origin is Annotated:
        return models_in(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [model for part in get_args(annotation) for model in models_in(part)]
    return []


def keys_below(annotation: Any, node: Node | None) -> dict[str, Any]:
    """Return key -> annotation of what may stand below; empty where nothing has a fixed key."""
    models = models_in(annotation)
    if len(models) > 1 and node is not None:
        models = _best(models, node)
    keys: dict[str, Any] = {}
    for model in models:
        for name, field in model.model_fields.items():
            keys.setdefault(key_of(name, field), field.annotation)
    if models:
        return keys
    origin = get_origin(annotation)
    if origin is Annotated or origin in (Union, types.UnionType):
        for part in get_args(annotation)[: 1 if origin is Annotated else None]:
            keys.update(keys_below(part, node))
    elif origin is dict:
        key_type, value_type = get_args(annotation)
        if get_origin(key_type) is Literal:
            keys = dict.fromkeys(get_args(key_type), value_type)
    return keys


def _best(models: list[type[BaseModel]], node: Node) -> list[type[BaseModel]]:
    """Return those of `models` that `node` speaks for most; all of them where it says nothing."""
    scores = [_fit(model, node) for model in models]
    best = max(scores)
    return [model for model, score in zip(models, scores, strict=True) if score == best]


def _fit(model: type[BaseModel], node: Node) -> int:
    """How much `node` looks like a `model`: by its `family`, else by the required keys it holds.

    The first required key is what the model is about and counts double.
    """
    family = model.model_fields.get("family")
    if family is not None:
        written = child(node, "family")
        return int(written is not None and written.value in get_args(family.annotation))
    required = [key_of(n, f) for n, f in model.model_fields.items() if f.is_required()]
    held = [child(node, key) is not None for key in required]
    return sum(held) + held[0] if held else 0


def _item_of(annotation: Any) -> Any:
    """Return what an item of a list-like annotation is, or None where it is not one."""
    origin = get_origin(annotation)
    if origin is tuple:
        return get_args(annotation)[0]
    if origin is Annotated or origin in (Union, types.UnionType):
        for part in get_args(annotation):
            item = _item_of(part)
            if item is not None:
                return item
    return None


def is_list(root: Node | None, path: Path) -> bool:
    """Whether a list may stand at `path`."""
    return _item_of(annotation_at(root, path)) is not None


def annotation_at(root: Node | None, path: Path) -> Any:
    """Return what may stand at `path`, or None where the path is not one of a scenario."""
    annotation: Any = Scenario
    node = root
    for key in path:
        below = _item_of(annotation) if isinstance(key, int) else None
        if below is None:
            below = keys_below(annotation, node).get(str(key))
        if below is None:
            return None
        annotation = below
        node = child(node, key) if node is not None else None
    return annotation


def valid_keys(root: Node | None, path: Path) -> list[str]:
    """Return the keys that may stand below `path`."""
    return list(keys_below(annotation_at(root, path), nearest_or_none(root, path)))


def kinds_at(root: Node | None, path: Path) -> list[list[str]]:
    """Return what tells the kinds apart that may stand at `path`: `family`, or required keys."""
    kinds = []
    for model in models_in(annotation_at(root, path)):
        family = model.model_fields.get("family")
        required = [key_of(n, f) for n, f in model.model_fields.items() if f.is_required()]
        known = [f"family: {name}" for name in get_args(family.annotation)] if family else required
        kinds.append(known)
    return kinds


def nearest_or_none(root: Node | None, path: Path) -> Node | None:
    """Return the node at exactly `path`, or None."""
    node = root
    for key in path:
        if node is None:
            return None
        node = child(node, key)
    return node


@cache
def all_paths() -> tuple[str, ...]:
    """Return every dotted path that a scenario can hold."""
    return tuple(dotted(path) for path in _walk(Scenario, ()))


def _walk(annotation: Any, prefix: Path) -> Iterator[Path]:
    item = _item_of(annotation)
    if item is not None:
        yield from _walk(item, (*prefix, 0))
    for key, below in keys_below(annotation, None).items():
        yield (*prefix, key)
        yield from _walk(below, (*prefix, key))


def suggest_key(root: Node | None, path: Path, rest: Path = ()) -> str:
    """Return the hint for an unknown key: the nearest key beside it, or where it belongs.

    `rest` is what was to stand below the key.
    """
    key = str(path[-1])
    beside = valid_keys(root, path[:-1])
    close = difflib.get_close_matches(key.lower(), beside, n=1)
    if close:
        meant = (*path[:-1], close[0], *rest)
        return f"did you mean {dotted(meant)!r}?"
    written = f"{dotted(path)}."
    others = [other for other in all_paths() if not written.startswith(f"{other}.")]
    elsewhere = [other for other in others if other.rsplit(".", 1)[-1] == key]
    if elsewhere and not any(isinstance(part, int) for part in path):
        return f"did you mean {elsewhere[0]!r}?"
    near = difflib.get_close_matches(dotted(path), others, n=1, cutoff=0.75)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"keys here: {', '.join(beside)}" if beside else "nothing can stand below it"
