"""The points of a study: which scenarios it asks for, in its order."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from desim.errors import Mistake, SpecError
from desim.spec import overrides as overriding
from desim.spec.catalogue import Catalogue, roots_from
from desim.spec.nodes import Node, from_plain
from desim.spec.yaml_source import read_file
from desim.study.axis import override, same

if TYPE_CHECKING:
    from collections.abc import Iterator

    from desim.study.sweep.study_file import Study

#: More points than this are not started without being asked twice.
MANY = 10_000
#: Up to so many points of the product are looked at to see which `when` keeps.
_COUNTED = 1_000_000


@dataclass(frozen=True, slots=True)
class Point:
    """One point: the value of every axis, in the order of `Study.axes`."""

    values: tuple[Any, ...]


def points(study: Study) -> Iterator[Point]:
    """Yield the points of a study that its conditions keep, the last axis changing fastest."""
    paths = [axis.path for axis in study.axes]
    rows = [list(zip(*(axis.values for axis in group), strict=True)) for group in study.groups]
    for chosen in itertools.product(*rows):
        values = tuple(itertools.chain.from_iterable(chosen))
        if _kept(study, dict(zip(paths, values, strict=True))):
            yield Point(values)


def _kept(study: Study, values: Mapping[str, Any]) -> bool:
    return not study.when or any(
        all(same(values[path], allowed) for path, allowed in condition.items())
        for condition in study.when
    )


def number_of_points(study: Study) -> int:
    """Return how many points a study has; of a very large product an upper limit.

    Raises SpecError where it has none.
    """
    product = math.prod(len(group[0].values) for group in study.groups)
    if not study.when or product > _COUNTED:
        return product
    kept = sum(1 for _ in points(study))
    if not kept:
        rule = f"keeps none of the {product:,} points: the sweep would be empty"
        raise SpecError([Mistake("when", rule, file=study.file)])
    return kept


def overrides_of(study: Study, point: Point) -> tuple[str, ...]:
    """Return a point as `path=value` texts over the base of its study."""
    axes = zip((axis.path for axis in study.axes), point.values, strict=True)
    return tuple(override(path, value) for path, value in (*study.settings, *axes))


def require_paths(study: Study) -> None:
    """Refuse a base that cannot be read and paths that no scenario has; names the nearest path."""
    root = _written(study)
    starts = [Path.cwd()] if isinstance(study.base, Mapping) else [study.base.parent, Path.cwd()]
    catalogue = Catalogue(roots_from(starts))
    mistakes: list[Mistake] = []
    firsts = [(f"axes.{axis.path}", axis.path, axis.values[0], axis.line) for axis in study.axes]
    settings = [(f"set.{path}", path, value, 0) for path, value in study.settings]
    for where, path, value, line in (*settings, *firsts):
        try:
            overriding.apply(root, override(path, value), catalogue)
        except SpecError as error:
            mistakes += [
                replace(found, path=where, file=study.file, line=line) for found in error.mistakes
            ]
    if mistakes:
        raise SpecError(mistakes)


def _written(study: Study) -> Node:
    if isinstance(study.base, Mapping):
        return from_plain(study.base)
    root = read_file(study.base)
    if not isinstance(root.value, dict):
        rule = "must hold a mapping of keys to values"
        raise SpecError([Mistake("", rule, file=root.file, line=root.line)])
    return root
