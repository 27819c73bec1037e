"""Study files: what is varied, over which values, and what is looked for."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from desim.errors import Mistake, SpecError
from desim.spec.nodes import Node, dotted, from_plain, plain
from desim.spec.nodes import Path as KeyPath
from desim.spec.text_file import shown, similar_file
from desim.spec.yaml_source import read_file
from desim.study.axis import Axis, same
from desim.study.sweep.goal import Constraint, Objective, never_known, read_constraint
from desim.study.sweep.ranges import spread

KEYS = ("study", "base", "set", "axes", "zip", "when", "objective", "constraints")


@dataclass(frozen=True, slots=True)
class Study:
    """A study as it was written.

    The points are the product of `groups`, the last of which changes fastest; the axes of one group
    take their values together. A point is kept where it agrees with one of `when` (path -> values),
    or where there are none.
    """

    name: str
    base: Path | Mapping[str, Any]
    settings: tuple[tuple[str, Any], ...]
    groups: tuple[tuple[Axis, ...], ...]
    when: tuple[Mapping[str, tuple[Any, ...]], ...]
    objective: Objective
    constraints: tuple[Constraint, ...]
    file: str = ""

    @property
    def axes(self) -> tuple[Axis, ...]:
        """All axes in the order of the columns."""
        return tuple(axis for group in self.groups for axis in group)


def read_study(source: str | Path | Mapping[str, Any]) -> Study:
    """Read a study from a YAML file or a mapping; raises SpecError with every mistake found.

    `base` is relative to the study's file, or to the working folder where the study is a mapping.
    """
    mistakes: list[Mistake] = []
    if isinstance(source, Mapping):
        try:
            root, folder = from_plain(source), Path()
        except TypeError as error:
            raise SpecError([Mistake("", str(error))]) from None
    else:
        root, folder = _read(Path(source), mistakes), Path(source).parent
        root.file = root.file or shown(Path(source))
    reader = _Reader(root, folder, mistakes)
    study = reader.study()
    if mistakes or study is None:
        raise SpecError(sorted(mistakes, key=lambda m: (m.line == 0, m.line)))
    return study


def _read(file: Path, mistakes: list[Mistake]) -> Node:
    return read_file(file, mistakes, needs="study, base and axes")


class _Reader:
    """Reads the parts of a study and gathers what is wrong with them."""

    def __init__(self, root: Node, folder: Path, mistakes: list[Mistake]) -> None:
        self._root = root
        self._folder = folder
        self._mistakes = mistakes

    def study(self) -> Study | None:
        """The study, or None where it cannot be one; mistakes have been noted then."""
        keys = self._mapping(self._root, ())
        if keys is None:
            return None
        if {"workload", "cluster"} <= keys.keys() and not {"study", "axes"} & keys.keys():
            hint = f"python -m desim {self._root.file} plays it; a study names it as its base"
            self._note(self._root, (), "is a scenario, not a study", hint=hint)
            return None
        for key, node in keys.items():
            if key not in KEYS:
                close = difflib.get_close_matches(key, KEYS, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"keys: {', '.join(KEYS)}"
                self._note(node, (key,), "no such key in a study", hint=hint)
        axes = self._axes(keys.get("axes"))
        return Study(
            name=self._name(keys.get("study")),
            base=self._base(keys.get("base")),
            settings=self._settings(keys.get("set"), axes),
            groups=self._groups(keys.get("zip"), axes),
            when=self._when(keys.get("when"), axes),
            objective=self._objective(keys.get("objective")),
            constraints=self._constraints(keys.get("constraints")),
            file=self._root.file,
        )

    def _note(self, node: Node, path: KeyPath, rule: str, value: str = "", hint: str = "") -> None:
        self._mistakes.append(Mistake(dotted(path), rule, value, hint, node.file, node.line))

    def _mapping(self, node: Node, path: KeyPath, hint: str = "") -> dict[str, Node] | None:
        if isinstance(node.value, dict):
            return node.value
        shape = hint or f"keys: {', '.join(KEYS)}"
        self._note(node, path, "must be a mapping", repr(plain(node))[:60], shape)
        return None

    def _name(self, node: Node | None) -> str:
        if node is None:
            self._note(self._root, ("study",), "must name the study", hint="as in study: buckets")
        elif not isinstance(node.value, str) or not node.value.strip():
            self._note(node, ("study",), "must be text", repr(plain(node)))
        else:
            return node.value
        return ""

    def _base(self, node: Node | None) -> Path | Mapping[str, Any]:
        if node is None:
            hint = "the path of a scenario, relative to the study, or the mapping itself"
            self._note(self._root, ("base",), "must say what is varied", hint=hint)
        elif isinstance(node.value, dict):
            mapping: Mapping[str, Any] = plain(node)
            return mapping
        elif isinstance(node.value, str) and node.value.strip():
            file = self._folder / node.value
            if not os.path.exists(file):  # False for a name that no file can have
                hint = similar_file(file) or "a path is relative to the study's file"
                self._note(node, ("base",), "there is no such file", repr(node.value), hint)
            return file
        else:
            self._note(node, ("base",), "must be a path or a mapping", repr(plain(node)))
        return Path()

    def _settings(self, node: Node | None, axes: dict[str, Axis]) -> tuple[tuple[str, Any], ...]:
        if node is None:
            return ()
        keys = self._mapping(node, ("set",), "as in {policies.recompute: full}") or {}
        for path in keys.keys() & axes.keys():
            hint = "leave it out here or there"
            self._note(keys[path], ("set", path), "is an axis too, whose values count", hint=hint)
        return tuple((path, plain(value)) for path, value in keys.items())

    def _axes(self, node: Node | None) -> dict[str, Axis]:
        if node is None:
            hint = "as in axes: {parallel.tensor: [2, 4, 8]}"
            self._note(self._root, ("axes",), "must say what is varied over what", hint=hint)
            return {}
        keys = self._mapping(node, ("axes",), "paths of the scenario with their values") or {}
        if isinstance(node.value, dict) and not keys:
            self._note(node, ("axes",), "has no axis: there is nothing to vary")
        return {path: self._axis(path, values) for path, values in keys.items()}

    def _axis(self, path: str, node: Node) -> Axis:
        where: KeyPath = ("axes", path)
        values: tuple[Any, ...] = ()
        if isinstance(node.value, dict):
            try:
                values = spread(plain(node))
            except ValueError as error:
                by = "step" if "step" in node.value else "factor"
                self._note(node, where, str(error), hint=f"as in {{from: 1, to: 8, {by}: 2}}")
        elif isinstance(node.value, list):
            values = tuple(plain(node))
            for number, value in enumerate(values):
                if same(value, values[:number]):
                    self._note(node, where, "has a value twice", repr(value))
            if not values:
                self._note(node, where, "has no values: the sweep would be empty")
        else:
            hint = "a list of values, or {from, to, step or factor}"
            self._note(node, where, "must be a list or a range", repr(node.value), hint)
        return Axis(path, values, node.line)

    def _groups(self, node: Node | None, axes: dict[str, Axis]) -> tuple[tuple[Axis, ...], ...]:
        """The axes in their order, those of a zip together where the first of them stands."""
        together: dict[str, tuple[str, ...]] = {}
        for number, part in enumerate(self._zips(node)):
            where: KeyPath = ("zip", number)
            paths = tuple(str(path) for path in plain(part))
            for path in paths:
                if path not in axes:
                    self._note(part, where, "is not an axis", path, self._nearest(path, axes))
                elif path in together:
                    self._note(part, where, "is already varied with others", path)
            lengths = {path: len(axes[path].values) for path in paths if path in axes}
            if len(set(lengths.values())) > 1:
                counts = ", ".join(f"{path} has {count}" for path, count in lengths.items())
                self._note(part, where, f"axes varied together must have as many values: {counts}")
            together |= dict.fromkeys(paths, paths)
        groups: dict[tuple[str, ...], None] = {}
        for path in axes:
            groups.setdefault(tuple(p for p in together.get(path, (path,)) if p in axes))
        return tuple(tuple(axes[path] for path in group) for group in groups)

    def _zips(self, node: Node | None) -> list[Node]:
        """The lists of paths in `zip`, which may be one list."""
        if node is None:
            return []
        hint = "as in zip: [[parallel.tensor, parallel.pipeline]]"
        if not isinstance(node.value, list):
            self._note(node, ("zip",), "must be a list of lists of axes", hint=hint)
            return []
        if all(isinstance(part.value, str) for part in node.value):
            return [node]
        lists = [part for part in node.value if isinstance(part.value, list)]
        if len(lists) < len(node.value):
            self._note(node, ("zip",), "must be a list of lists of axes", hint=hint)
        return lists

    def _when(
        self, node: Node | None, axes: dict[str, Axis]
    ) -> tuple[Mapping[str, tuple[Any, ...]], ...]:
        if node is None:
            return ()
        parts = node.value if isinstance(node.value, list) else [node]
        if not parts:
            self._note(node, ("when",), "keeps no point: leave it out to keep all")
        return tuple(self._condition(part, ("when", i), axes) for i, part in enumerate(parts))

    def _condition(
        self, node: Node, where: KeyPath, axes: dict[str, Axis]
    ) -> Mapping[str, tuple[Any, ...]]:
        hint = "as in - {policies.schedule: interleaved, parallel.virtual_stages: [2, 4]}"
        result: dict[str, tuple[Any, ...]] = {}
        for path, values in (self._mapping(node, where, hint) or {}).items():
            allowed = tuple(plain(values)) if isinstance(values.value, list) else (plain(values),)
            result[path] = allowed
            if path not in axes:
                near = self._nearest(path, axes)
                self._note(values, (*where, path), "is not an axis", hint=near)
                continue
            for value in allowed:
                if not same(value, axes[path].values):
                    known = ", ".join(map(str, axes[path].values[:8]))
                    rule = "is not a value of the axis"
                    self._note(values, (*where, path), rule, repr(value), f"values: {known}")
        return result

    def _nearest(self, path: str, axes: dict[str, Axis]) -> str:
        close = difflib.get_close_matches(path, axes, n=1)
        return f"did you mean {close[0]!r}?" if close else f"axes: {', '.join(axes)}"

    def _objective(self, node: Node | None) -> Objective:
        if node is None:
            return Objective()
        written = plain(node)
        if isinstance(written, str) and written.strip():
            written = {"minimise": written}
        if isinstance(written, dict) and len(written) == 1:
            ((way, name),) = written.items()
            if way in ("minimise", "maximise") and isinstance(name, str):
                self._require_scalar(node, ("objective",), name.strip())
                return Objective(name.strip(), way == "maximise")
        hint = "as in step_time_s (the smallest is best) or {maximise: mfu}"
        self._note(node, ("objective",), "must name a scalar of the summary", repr(written), hint)
        return Objective()

    def _require_scalar(self, node: Node, path: KeyPath, name: str) -> None:
        """Note a name that the summary of no scenario has."""
        hint = never_known(name)
        if hint:
            self._note(node, path, "no scalar of the summary has this name", name, hint)

    def _constraints(self, node: Node | None) -> tuple[Constraint, ...]:
        if node is None:
            return ()
        found = []
        parts = node.value if isinstance(node.value, list) else [node]
        for number, part in enumerate(parts):
            where: KeyPath = ("constraints", number)
            try:
                found.append(read_constraint(str(plain(part))))
                self._require_scalar(part, where, found[-1].name)
            except ValueError as error:
                hint = "as in fits, or peak_memory_bytes.max <= 70 GiB"
                self._note(part, where, str(error), repr(plain(part)), hint)
        return tuple(found)
