"""Scenario files to scenarios: the one way in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from desim.errors import Mistake, SpecError
from desim.spec import overrides as overriding
from desim.spec.catalogue import SLOTS, Catalogue, roots_from
from desim.spec.explain import explain
from desim.spec.nodes import Node, child, dotted, from_plain, plain
from desim.spec.nodes import Path as KeyPath
from desim.spec.rules.run import check, settle
from desim.spec.salvage import salvage
from desim.spec.scenario import Scenario
from desim.spec.schedule_file import expand_schedule
from desim.spec.tables import settle_tables
from desim.spec.text_file import shown
from desim.spec.yaml_source import read_file


@dataclass(frozen=True)
class Loaded:
    """A scenario that may be run, what the user should know about it, and its file."""

    scenario: Scenario
    notes: tuple[str, ...]
    path: Path | None


def load_scenario(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Loaded:
    """Read, complete and check a scenario; raises SpecError with every mistake found.

    `source` is the path of a YAML file or the mapping itself; `overrides` are `path=value` texts
    as `--set` takes them. Catalogue names are resolved, `parallel.data: auto` is replaced by its
    number.
    """
    path = None if isinstance(source, Mapping) else Path(source)
    starts = [Path.cwd()] if path is None else [path.parent, Path.cwd()]
    catalogue = Catalogue(roots_from(starts))
    mistakes: list[Mistake] = []
    root = _read(source, path, mistakes)
    for override in overrides:
        try:
            overriding.apply(root, override, catalogue)
        except SpecError as error:
            mistakes.extend(error.mistakes)
    moved = None
    try:
        moved = expand_schedule(root)
    except SpecError as error:
        mistakes.extend(error.mistakes)
    _expand(root, catalogue)
    mistakes.extend(catalogue.mistakes)
    try:
        scenario, notes = _validate(root, catalogue, mistakes)
    except SpecError as error:
        raise SpecError([moved.back(m) if moved else m for m in error.mistakes]) from None
    return Loaded(settle_tables(scenario, root, catalogue.roots), notes, path)


def _read(
    source: str | Path | Mapping[str, Any], path: Path | None, mistakes: list[Mistake]
) -> Node:
    if isinstance(source, Mapping):
        try:
            root = from_plain(source)
        except TypeError as error:
            raise SpecError([Mistake("", str(error))]) from None
        return root
    assert path is not None
    root = read_file(path, mistakes)
    if isinstance(root.value, dict) and {"study", "axes"} <= root.value.keys():
        hint = f"python -m desim sweep {shown(path)} plays its points"
        rule = "is a study, not a scenario"
        raise SpecError([Mistake("", rule, hint=hint, file=shown(path), line=root.line)])
    if not isinstance(root.value, dict):
        raise SpecError(
            [
                Mistake(
                    "",
                    "must hold a mapping of keys to values",
                    hint="name, workload, cluster",
                    file=shown(path),
                    line=root.line,
                )
            ]
        )
    return root


def _expand(root: Node, catalogue: Catalogue) -> None:
    """Replace the catalogue names of a scenario; `system` brings its device and fabric."""
    for section, key in (slot for slot in SLOTS if len(slot) == 2):
        holder = child(root, section)
        written = child(holder, key) if holder is not None else None
        if holder is not None and written is not None and isinstance(holder.value, dict):
            slot = (section, key)
            holder.value[str(key)] = catalogue.expand(written, SLOTS[slot], slot)


def _validate(
    root: Node, catalogue: Catalogue, mistakes: list[Mistake]
) -> tuple[Scenario, tuple[str, ...]]:
    """Return the checked scenario and its notes; raises SpecError with every mistake."""
    refused: set[KeyPath] = set(catalogue.failed)
    scenario: Scenario | None
    try:
        scenario = Scenario.model_validate(plain(root))
    except ValidationError as error:
        known = {dotted(path) for path in catalogue.failed}
        found = explain(error.errors(include_url=False), root)
        mistakes.extend(m for m in found if m.path not in known)
        mended = from_plain(plain(root))
        scenario, changed = salvage(mended, catalogue)
        refused |= changed
    notes: tuple[str, ...] = ()
    if scenario is not None:
        broken, notes = check(scenario, root, refused)
        mistakes.extend(broken)
    if mistakes or scenario is None:
        raise SpecError(sorted(mistakes, key=lambda m: (m.line == 0, m.file, m.line)))
    return settle(scenario), notes
