"""Writes docs/scenario.md: every field that a scenario can hold, read off the spec models.

python docs/generate_scenario_reference.py
"""

from __future__ import annotations

import ast
import inspect
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from desim.spec import base
from desim.spec.base import Spec
from desim.spec.flags import ALL, FLAGS, NUMBER
from desim.spec.scenario import Scenario

PAGE = Path(__file__).with_name("scenario.md")
INTRO = """\
# The scenario, field by field

This page is generated from the models in `desim/spec` by `docs/generate_scenario_reference.py`.

A scenario is one YAML 1.2 file. `--set PATH=VALUE` replaces any value by its dotted path, with YAML
on the right: `--set policies.schedule=gpipe`, `--set 'disturb=[{device: 17, compute: 0.8}]'`.

- Quantities carry their unit: `400 Gbps`, `3.35 TB/s`, `80 GiB`, `5 us`, `700 W`. A bit is `b` and
  a byte `B`; `k`, `M`, `G`, `T` are powers of 1000 and `Ki`, `Mi`, `Gi`, `Ti` of 1024.
- `workload.model`, `cluster.system`, `cluster.system.device` and `cluster.system.fabric` take a
  name of the catalogue (`python -m desim list`), the path of a YAML file, or the mapping itself. A
  mapping with `base: NAME` changes a few values of what the name stands for. `workload.model` also
  takes the path of a Hugging Face `config.json`.
- `collectives: auto` stands for `auto` for every collective.
- Unknown keys, missing units and impossible combinations are refused with file, line and the
  nearest valid choice.
"""
SWITCHES = """
What switches each on in the frameworks; in brackets the first version that is known to have it
(`Core`: Megatron Core; 23.04 is a tag of Megatron-LM):

"""
#: Field types that carry a unit or a bound, in words.
NAMED = (
    (base.Bytes, "an amount of memory, as `80 GiB`"),
    (base.BytesPerSecond, "a bandwidth, as `400 Gbps` or `3.35 TB/s`"),
    (base.BytesPerSecondOrNone, "a bandwidth, as `450 GB/s`, or 0"),
    (base.FlopsPerSecond, "a rate, as `989 TFLOPS`"),
    (base.Seconds, "a time, as `5 us`"),
    (base.Watts, "a power, as `700 W`"),
    (base.PositiveInt, "a whole number from 1"),
    (base.Share, "a number above 0, at most 1"),
)
PLAIN = {int: "a whole number", float: "a number", bool: "`true` or `false`", str: "text"}
BOUNDS = {"ge": "at least {}", "gt": "above {}", "le": "at most {}", "lt": "below {}"}


def reference() -> str:
    """Return the page."""
    return INTRO + "".join(_sections("", Scenario))


def _sections(path: str, model: type[Spec], kind: str = "") -> Iterator[str]:
    """Yield the section of a model, then those of the models below it.

    `kind` tells apart what may stand at the same path.
    """
    hints = get_type_hints(model, include_extras=True)
    meanings = _meanings(model)
    title = f"`{path}`{kind}" if path else "The file"
    yield f"\n## {title}\n\n{_contract(model)}\n\n"
    yield "| key | what it may be | default | meaning |\n|---|---|---|---|\n"
    below = []
    switches: dict[str, list[str]] = {}
    for name, field in model.model_fields.items():
        key = field.alias or name
        row = (f"`{key}`", _words(hints[name]), _default(field), meanings.get(name, ""))
        yield f"| {' | '.join(row)} |\n"
        for label, text in _switches(f"{path}.{key}", key):
            switches.setdefault(text, []).append(label)
        found = _models(hints[name])
        for other in found:
            what = f" ({_kind(other)})" if len(found) > 1 else ""
            below.append((".".join(part for part in (path, key) if part), other, what))
    if switches:
        yield SWITCHES + "".join(f"- {', '.join(of)}: {text}\n" for text, of in switches.items())
    for here, other, what in below:
        yield from _sections(here, other, what)


def _switches(path: str, key: str) -> Iterator[tuple[str, str]]:
    """Yield the choices of a field with what switches each on in the frameworks."""
    for choice, flags in FLAGS.get(path, {}).items():
        label = key if choice in (ALL, NUMBER) else f"{key}: {choice}"
        yield f"`{label}`", "; ".join(map(_code, flags))


def _code(text: str) -> str:
    """Mark what is written in a program as code."""
    return re.sub(r"[^\s,;()]*(?:--|[_=])[^\s,;()]*[^\s,;():]", r"`\g<0>`", text)


def _kind(model: type[Spec]) -> str:
    """Return the family of a model, or the first key that only it has."""
    first = next(iter(model.model_fields))
    return str(get_args(get_type_hints(model)[first])[0]) if first == "family" else first


def _contract(model: type[Spec]) -> str:
    return inspect.getdoc(model) or ""


def _meanings(model: type[Spec]) -> dict[str, str]:
    """Return the docstrings under the fields of a model and of those it extends."""
    tree = ast.parse(inspect.getsource(model)).body[0]
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for parent in model.__bases__:
        if issubclass(parent, Spec) and parent is not Spec:
            found.update(_meanings(parent))
    for field, after in zip(tree.body, tree.body[1:], strict=False):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            found[field.target.id] = " ".join(str(after.value.value).split())
    return found


def _models(hint: Any) -> list[type[Spec]]:
    """Return the spec models that a type holds."""
    if isinstance(hint, type) and issubclass(hint, Spec):
        return [hint]
    parts = get_args(hint)[:1] if get_origin(hint) is Annotated else get_args(hint)
    return [model for part in parts for model in _models(part)]


def _words(hint: Any) -> str:
    """Say in words what a type allows."""
    for named, words in NAMED:
        if hint == named:
            return words
    if isinstance(hint, type) and issubclass(hint, Spec):
        return "a mapping"
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _words(parts[0]) + _bounds(parts[1:])
    if origin is Literal:
        return ", ".join(f"`{_plain(part)}`" for part in parts)
    if origin in (Union, types.UnionType):
        kept = [part for part in parts if part is not type(None)]
        return " or ".join(dict.fromkeys(_words(part) for part in kept))
    if origin is tuple:
        items = [_words(part) for part in parts if part is not ...]
        return f"a list: each {items[0]}" if ... in parts else f"a list of {len(items)}: {items[0]}"
    if origin is dict:
        return f"a mapping from {_words(parts[0])} to {_words(parts[1])}"
    return PLAIN[hint]


def _bounds(metadata: tuple[Any, ...]) -> str:
    found = []
    for item in metadata:
        for bound in item.metadata if isinstance(item, FieldInfo) else [item]:
            for name, words in BOUNDS.items():
                if hasattr(bound, name):
                    found.append(words.format(getattr(bound, name)))
    return "".join(f", {bound}" for bound in found)


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined:
        return "must be given"
    if isinstance(value, Spec):
        return "as below"
    if value is None:
        return "left out"
    return f"`{_plain(list(value) if isinstance(value, tuple) else value)}`"


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    PAGE.write_text(reference())
