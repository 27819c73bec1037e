"""Variants: one scenario with other values at some paths, each with a short name."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from desim.errors import Mistake, SpecError
from desim.plan.load import load_scenario
from desim.spec.nodes import plain
from desim.spec.yaml_source import read_text
from desim.study.axis import Axis, override

if TYPE_CHECKING:
    from desim.spec.scenario import Scenario

Source: TypeAlias = str | Path | Mapping[str, Any]
#: More than these nobody reads beside each other, and a page holds no more timelines.
MAX_VARIANTS = 32
_LONGEST_VALUE = 32


@dataclass(frozen=True, slots=True)
class Variant:
    """A scenario under comparison: `overrides` over `source`.

    `setting` holds the paths that are varied, with this variant's values.
    """

    name: str
    source: Source
    overrides: tuple[str, ...]
    setting: dict[str, Any]
    scenario: Scenario
    notes: tuple[str, ...] = ()
    remark: str = ""
    """What was chosen for it, where it was retuned."""


def parse_axis(text: str) -> Axis:
    """Read `PATH=V1,V2,...`, each value YAML; raises SpecError where it cannot be read.

    Commas within brackets, braces and quotes do not separate: `disturb=[],[{jitter: 0.02}]`.
    """
    path, equals, listed = (part.strip() for part in text.partition("="))
    label = f"--vary {text if len(text) <= 60 else text[:57] + '...'}"
    if not equals or not path:
        hint = "as in parallel.tensor=4,8"
        raise SpecError([Mistake("", "must be PATH=VALUE,VALUE,...", hint=hint, file=label)])
    if not listed:
        raise SpecError([Mistake(path, "needs values after '='", file=label)])
    try:
        values = plain(read_text(f"[{listed}]", label))
    except SpecError as error:
        raise SpecError([replace(m, path=path, line=0) for m in error.mistakes]) from None
    if listed.endswith(",") or any(value == "" for value in values):
        raise SpecError([Mistake(path, "a value between commas is missing", file=label)])
    return Axis(path, tuple(values))


def combine(axes: Sequence[Axis], *, paired: bool) -> list[dict[str, Any]]:
    """Return the settings of all variants: every combination, or value by value where `paired`.

    The last axis changes fastest. Raises SpecError where that cannot be done.
    """
    counts = Counter(axis.path for axis in axes)
    twice = [path for path, count in counts.items() if count > 1]
    if twice:
        rule = "is varied twice"
        hint = "write all its values in one --vary"
        raise SpecError([Mistake(twice[0], rule, hint=hint, file="--vary")])
    sizes = [len(axis.values) for axis in axes]
    if paired:
        _require_pairs(axes, sizes)
        rows: list[tuple[Any, ...]] = list(zip(*(axis.values for axis in axes), strict=True))
        _require_unlike(" and ".join(axis.path for axis in axes), rows, "--paired")
    else:
        for axis in axes:
            _require_unlike(axis.path, axis.values, "--vary")
        total = 1
        for size in sizes:
            total *= size
        require_number(total, " x ".join(map(str, sizes)) + f" = {total}" if len(sizes) > 1 else "")
        rows = list(itertools.product(*(axis.values for axis in axes)))
    require_number(len(rows))
    return [dict(zip((axis.path for axis in axes), row, strict=True)) for row in rows]


def require_number(count: int, arithmetic: str = "") -> None:
    """Refuse what is too few or too many to compare."""
    given = arithmetic or str(count)
    if count < 2:
        rule = "at least 2 variants are needed to compare"
        hint = "give --vary PATH=V1,V2 or several scenarios"
        raise SpecError([Mistake("", rule, given, hint, file="compare")])
    if count > MAX_VARIANTS:
        rule = f"at most {MAX_VARIANTS} variants can be compared"
        raise SpecError([Mistake("", rule, given, "vary fewer values", file="compare")])


def _require_unlike(what: str, values: Sequence[Any], option: str) -> None:
    """Refuse values, or values taken together, of which one stands twice; 1 and true are two."""
    for at, value in enumerate(values):
        if any(value == other and repr(value) == repr(other) for other in values[:at]):
            shown = value if isinstance(value, tuple) else (value,)
            given = ", ".join(map(shown_value, shown))
            raise SpecError([Mistake(what, "the value stands twice", given, file=option)])


def _require_pairs(axes: Sequence[Axis], sizes: Sequence[int]) -> None:
    if len(axes) < 2:
        rule = "needs at least two --vary, whose values are taken together"
        raise SpecError([Mistake("", rule, str(len(axes)), file="--paired")])
    if len(set(sizes)) > 1:
        lengths = ", ".join(f"{axis.path} has {len(axis.values)}" for axis in axes)
        rule = "every --vary must have as many values as the others"
        hint = "without --paired every combination is taken"
        raise SpecError([Mistake("", rule, lengths, hint, file="--paired")])


def varied(
    source: Source, overrides: Sequence[str], settings: Sequence[Mapping[str, Any]]
) -> list[Variant]:
    """Load the variants of one scenario; raises SpecError with every mistake of each of them."""
    names = setting_names(settings)
    found: list[Variant] = []
    refused: dict[str, tuple[Mistake, ...]] = {}
    for name, setting in zip(names, settings, strict=True):
        own = (*overrides, *(override(path, value) for path, value in setting.items()))
        try:
            loaded = load_scenario(source, own)
        except SpecError as error:
            refused[name] = tuple(_said_of_axis(m, setting) for m in error.mistakes)
            continue
        found.append(Variant(name, source, own, dict(setting), loaded.scenario, loaded.notes))
    if refused:
        raise SpecError(named_mistakes(refused, len(names)))
    return _said_of_equals(found)


def _said_of_equals(variants: Sequence[Variant]) -> list[Variant]:
    """Note of a variant that its values come to an earlier one's scenario: nothing can differ."""
    first: dict[str, str] = {}
    noted = []
    for variant in variants:
        other = first.setdefault(_identity(variant), variant.name)
        if other != variant.name:
            note = f"comes to the same scenario as {other}"
            variant = replace(variant, notes=(*variant.notes, note))
        noted.append(variant)
    return noted


def _identity(variant: Variant) -> str:
    """Return all that a scenario says, but for its name."""
    return variant.scenario.model_copy(update={"name": "job"}).model_dump_json(by_alias=True)


def _said_of_axis(mistake: Mistake, setting: Mapping[str, Any]) -> Mistake:
    """A variant's value comes from `--vary`, not from `--set`."""
    for path in setting:
        if mistake.file.startswith(f"--set {path}="[:50]):
            return replace(mistake, file="--vary")
    return mistake


def named_mistakes(refused: Mapping[str, tuple[Mistake, ...]], number: int) -> list[Mistake]:
    """Return the mistakes of some variants by name; what is wrong with all of them stands once."""
    shared = [
        mistake
        for mistake in next(iter(refused.values()))
        if len(refused) == number and all(mistake in others for others in refused.values())
    ]
    named = []
    for name, mistakes in refused.items():
        for mistake in mistakes:
            if mistake not in shared:
                where = f": {mistake.file}" if mistake.file else ""
                named.append(replace(mistake, file=f"variant {name}{where}"))
    return [*dict.fromkeys(shared), *named]


def require_distinct(variants: Sequence[Variant]) -> None:
    """Refuse two variants that are one scenario, such as a file that is given twice."""
    seen: dict[str, str] = {}
    for variant in variants:
        key = _identity(variant)
        if key in seen:
            rule, hint = f"is the same scenario as {seen[key]}", "change a value in one of them"
            raise SpecError([Mistake("", rule, hint=hint, file=f"variant {variant.name}")])
        seen[key] = variant.name


def shown_value(value: Any) -> str:
    """Return a value as it is written in a name, shortened."""
    if isinstance(value, str):
        text = value
    else:
        text = json.dumps(value, ensure_ascii=False, default=str).replace('"', "")
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."


def setting_names(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a short name for each setting: its values, with as much of the path as it needs."""
    paths = list(settings[0])
    keys = [path.rsplit(".", 1)[-1] for path in paths]
    if len(set(keys)) < len(keys):
        keys = [".".join(path.rsplit(".", 2)[-2:]) for path in paths]
    words = len(paths) == 1 and all(isinstance(s[paths[0]], str) for s in settings)
    names = [
        ", ".join(
            shown_value(setting[path]) if words else f"{key}={shown_value(setting[path])}"
            for key, path in zip(keys, paths, strict=True)
        )
        for setting in settings
    ]
    return _distinct(names)


def _distinct(names: Sequence[str]) -> list[str]:
    """Number names that stand more than once."""
    counts, seen = Counter(names), Counter[str]()
    result = []
    for name in names:
        seen[name] += 1
        result.append(f"{name} ({seen[name]})" if counts[name] > 1 else name)
    return result
