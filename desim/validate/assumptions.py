"""What is assumed where a published row is silent: rules that fill cells and set policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from desim.errors import DesimError

_KEYS = {"when", "fill", "set", "stages", "skip", "why"}


class UnscoredError(DesimError):
    """A row that cannot be simulated; the message says why."""


@dataclass(frozen=True)
class Rule:
    """One assumption: the rows that it is for and what it says of them."""

    when: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Columns and the patterns of which one must match; an empty pattern is a blank cell."""
    fill: Mapping[str, str] = field(default_factory=dict)
    """Values for blank cells."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Scenario settings by dotted path."""
    ends_fewer: int | None = None
    """Layers that the first and the last model chunk hold less than the others."""
    skip: str = ""
    """Why such a row is not simulated."""

    def matches(self, row: Mapping[str, str]) -> bool:
        """Tell whether the rule is for this row."""
        return all(
            any(fnmatchcase(row.get(column, ""), pattern) for pattern in patterns)
            for column, patterns in self.when.items()
        )


@dataclass(frozen=True)
class Assumed:
    """What the rules say of one row."""

    row: Mapping[str, str]
    """The row with its blank cells filled where a rule does."""
    settings: Mapping[str, Any]
    """Scenario settings by dotted path."""
    ends_fewer: int
    """Layers that the first and the last model chunk hold less than the others."""


@dataclass(frozen=True)
class Assumptions:
    """The rules of one file, in order."""

    rules: tuple[Rule, ...] = ()

    def apply(self, row: Mapping[str, str]) -> Assumed:
        """Apply every matching rule in order; raises UnscoredError where a rule says so."""
        filled = dict(row)
        settings: dict[str, Any] = {}
        ends_fewer = 0
        for rule in self.rules:
            if not rule.matches(filled):
                continue
            if rule.skip:
                raise UnscoredError(rule.skip)
            for column, value in rule.fill.items():
                if not filled.get(column):
                    filled[column] = value
            settings.update(rule.settings)
            if rule.ends_fewer is not None:
                ends_fewer = rule.ends_fewer
        return Assumed(filled, settings, ends_fewer)

    def reads(self, column: str, text: str) -> bool:
        """Tell whether some rule's pattern for a column matches what stands there."""
        return any(fnmatchcase(text, pattern) for pattern in self.words(column))

    def words(self, column: str) -> list[str]:
        """Return the patterns that rules have for a column, in their order."""
        found = (pattern for rule in self.rules for pattern in rule.when.get(column, ()))
        return list(dict.fromkeys(found))

    def patterns(self, column: str, path: str) -> str:
        """Return the patterns of a column for which a rule sets `path`, joined by commas."""
        found = (rule.when.get(column, ()) for rule in self.rules if path in rule.settings)
        return ", ".join(dict.fromkeys(pattern for patterns in found for pattern in patterns))


def load_assumptions(path: str | Path) -> Assumptions:
    """Read an assumptions file; raises DesimError where it is not one."""
    try:
        with open(path, encoding="utf-8") as file:
            data = YAML(typ="safe").load(file)
    except (OSError, YAMLError) as error:
        raise DesimError(f"{path}: cannot be read as assumptions: {error}") from None
    if not isinstance(data, dict) or not isinstance(data.get("rules"), list):
        raise DesimError(f"{path}: must hold a mapping with a list `rules`")
    return Assumptions(tuple(_rule(path, i, rule) for i, rule in enumerate(data["rules"], 1)))


def _rule(path: str | Path, number: int, data: Any) -> Rule:
    where = f"{path}: rule {number}"
    if not isinstance(data, dict):
        raise DesimError(f"{where}: must be a mapping")
    unknown = sorted(set(data) - _KEYS)
    if unknown:
        known = ", ".join(sorted(_KEYS))
        raise DesimError(f"{where}: unknown key {unknown[0]!r}; there are {known}")
    for key in ("when", "fill", "set", "stages"):
        if not isinstance(data.get(key, {}), dict):
            raise DesimError(f"{where}: {key} must be a mapping")
    return Rule(
        when={column: _patterns(value) for column, value in data.get("when", {}).items()},
        fill={column: str(value) for column, value in data.get("fill", {}).items()},
        settings=data.get("set", {}),
        ends_fewer=data.get("stages", {}).get("ends_fewer"),
        skip=data.get("skip", ""),
    )


def _patterns(value: Any) -> tuple[str, ...]:
    return tuple(str(item) for item in value) if isinstance(value, list) else (str(value),)
