"""Scenarios given one by one as the variants of a comparison, and where scenarios differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from desim.errors import Mistake, SpecError
from desim.plan.load import load_scenario
from desim.spec.scenario import Scenario
from desim.study.compare.variants import Variant, named_mistakes, require_distinct, require_number

if TYPE_CHECKING:
    from desim.study.compare.variants import Source

#: Where a part of the catalogue stands that has a name: another name says all.
_NAMED = (
    "workload.model",
    "cluster.system",
    "cluster.system.device",
    "cluster.system.fabric",
)
_MISSING = object()


def given(sources: Sequence[Source | Scenario], overrides: Sequence[str] = ()) -> list[Variant]:
    """Load scenarios as variants; their settings are the paths in which they differ.

    `overrides` are put over files and mappings; scenarios that are loaded stay as they are. Raises
    SpecError with every mistake of each of them.
    """
    require_number(1 if isinstance(sources, (str, Mapping)) else len(sources))
    loaded: list[tuple[Source, Scenario, tuple[str, ...]]] = []
    refused: dict[str, tuple[Mistake, ...]] = {}
    for number, source in enumerate(sources, start=1):
        if isinstance(source, Scenario):
            dumped = source.model_dump(mode="json", by_alias=True, exclude_none=True)
            loaded.append((dumped, source, ()))
            continue
        try:
            read = load_scenario(source, overrides)
        except SpecError as error:
            label = str(number) if isinstance(source, Mapping) else str(source)
            refused[label] = error.mistakes
        else:
            loaded.append((source, read.scenario, read.notes))
    if refused:
        raise SpecError(_mistakes(refused, len(sources)))
    settings = differences([scenario for _, scenario, _ in loaded])
    variants = [
        Variant(name, source, tuple(overrides), setting, scenario, notes)
        for name, setting, (source, scenario, notes) in zip(
            _names(loaded), settings, loaded, strict=True
        )
    ]
    require_distinct(variants)
    return variants


def _mistakes(refused: Mapping[str, tuple[Mistake, ...]], number: int) -> list[Mistake]:
    """Mistakes name their file where there is one; those of a mapping get its number."""
    named = named_mistakes(refused, number)
    plain = [mistake for mistakes in refused.values() for mistake in mistakes]
    return list(dict.fromkeys(plain)) if all(m.file for m in plain) else named


def _names(loaded: Sequence[tuple[Source, Scenario, tuple[str, ...]]]) -> list[str]:
    """Return the scenarios' names; their files' where those are the same, or a number."""
    names = [scenario.name for _, scenario, _ in loaded]
    if len(set(names)) == len(names):
        return names
    files = [
        name if isinstance(source, Mapping) else Path(source).stem
        for name, (source, _, _) in zip(names, loaded, strict=True)
    ]
    if len(set(files)) == len(files):
        return files
    return [f"{name} ({number})" for number, name in enumerate(files, start=1)]


def differences(scenarios: Sequence[Scenario]) -> list[dict[str, Any]]:
    """Return, for each scenario, its values at the paths in which not all are equal.

    What is left out is None. Where a model, system, device or fabric has another name, its name
    stands for all that is below it. Names of scenarios, and what is only written, do not count.
    """
    flat = [dict(_leaves(_data(scenario), "")) for scenario in scenarios]
    paths = list(dict.fromkeys(path for one in flat for path in one))
    named = [
        path
        for path in _NAMED
        if len({str(one.get(f"{path}.name")) for one in flat}) > 1
        and all(f"{path}.name" in one for one in flat)
    ]
    kept: dict[str, str] = {}
    for path in paths:
        above = next((name for name in named if path.startswith(f"{name}.")), None)
        if above is not None:
            kept[above] = f"{above}.name"
        elif any(one.get(path, _MISSING) != flat[0].get(path, _MISSING) for one in flat):
            kept[path] = path
    return [{path: one.get(leaf) for path, leaf in kept.items()} for one in flat]


def _data(scenario: Scenario) -> dict[str, Any]:
    data = scenario.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {key: value for key, value in data.items() if key not in ("name", "output")}


def _leaves(value: Any, path: str) -> list[tuple[str, Any]]:
    """Return the values of nested mappings by dotted path; a list is one value."""
    if not isinstance(value, dict) or not value:
        return [(path, value)]
    return [
        leaf
        for key, below in value.items()
        for leaf in _leaves(below, f"{path}.{key}" if path else str(key))
    ]
