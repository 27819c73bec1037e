"""Pairs of measured rows that differ in one policy."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from desim.errors import Mistake, SpecError
from desim.validate.effects_file import ASCENDING, EffectsFile, Policy
from desim.validate.ignored import COLUMNS
from desim.validate.measurements import Measurement, measured_step_s

if TYPE_CHECKING:
    from collections.abc import Callable

    Key = tuple[str, ...]

_TIER = "A"  # rows of tier B take part where a policy names them
MICRO_BATCHES = "micro_batches"
#: Columns that say where a row comes from and what was measured, not what ran.
_NOT_OF_THE_JOB = frozenset(
    {"id", "tier", "source", "source_kind", "notes", "repeat_of", "peak_memory_unit"}
)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two configurations that differ in a policy; each may have been measured several times."""

    policy: Policy
    reference: tuple[Measurement, ...]
    changed: tuple[Measurement, ...]

    @property
    def name(self) -> str:
        """The ids of the first measurement of each."""
        return f"{self.reference[0].id} -> {self.changed[0].id}"


def all_rows(rows: Sequence[Measurement], effects: EffectsFile) -> list[Measurement]:
    """Return the rows of a table and those that the file of effects adds.

    Raises SpecError where one is like no row or has an id that is taken.
    """
    by_id = {row.id: row for row in rows}
    mistakes = []
    for number, extra in enumerate(effects.rows):
        path = f"rows.{number}"
        if extra.like not in by_id:
            mistakes.append(Mistake(f"{path}.like", "there is no such row", repr(extra.like)))
        elif extra.id in by_id:
            mistakes.append(Mistake(f"{path}.id", "is the id of another row", repr(extra.id)))
        else:
            like = by_id[extra.like]
            cells = like.cells | extra.cells | {"id": extra.id}
            by_id[extra.id] = Measurement(like.line, extra.id, like.tier, like.family, cells)
    if mistakes:
        raise SpecError(mistakes)
    return list(by_id.values())


def find_pairs(rows: Sequence[Measurement], effects: EffectsFile) -> list[Pair]:
    """Return the pairs of every policy, in the order of policies and rows.

    Raises SpecError for a policy that names a column or row that is not there or finds no pair.
    """
    mistakes: list[Mistake] = []
    found: list[Pair] = []
    by_id = {row.id: row for row in rows}
    for number, policy in enumerate(effects.policies):
        unknown = list(_unknown(policy, by_id))
        pairs = [] if unknown else [*_named(policy, by_id), *_matching(policy, rows)]
        if not unknown and not pairs:
            unknown = [("differ", "no two measured rows are a pair", policy.name)]
        mistakes += [Mistake(f"policies.{number}.{p}", rule, value) for p, rule, value in unknown]
        found += pairs
    if mistakes:
        raise SpecError(mistakes)
    return found


def _unknown(policy: Policy, rows: Mapping[str, Measurement]) -> Iterator[tuple[str, str, str]]:
    for key, columns in (
        ("differ", policy.differ), ("free", policy.free), ("equal", policy.equal),
    ):  # fmt: skip
        for column in columns:
            if column not in COLUMNS and not (key == "equal" and column == MICRO_BATCHES):
                yield key, "there is no such column", repr(column)
    for pair in policy.pairs:
        for name in pair:
            if name not in rows:
                yield "pairs", "there is no such row", repr(name)


def _named(policy: Policy, rows: Mapping[str, Measurement]) -> Iterator[Pair]:
    for reference, changed in policy.pairs:
        yield Pair(policy, (rows[reference],), (rows[changed],))


def _matching(policy: Policy, rows: Sequence[Measurement]) -> Iterator[Pair]:
    """Yield pairs of rows that agree but for what may differ; equal configurations are one."""
    if not policy.differ:
        return
    alike: dict[Key, dict[Key, list[Measurement]]] = {}
    for row in rows:
        if row.family == policy.family and row.tier == _TIER and _is_measured(row):
            held = _all_but(row, {*policy.differ, *policy.free}) + _words(row, policy)
            alike.setdefault(held, {}).setdefault(_all_but(row, set()), []).append(row)
    for configurations in alike.values():
        sides = [tuple(members) for members in configurations.values()]
        for before, after in _steps(policy, sides):
            for reference in sides:
                if before(reference[0]):
                    yield from (Pair(policy, reference, s) for s in sides if after(s[0]))


def _is_measured(row: Measurement) -> bool:
    try:
        return measured_step_s(row) is not None
    except ValueError:
        return False


def _all_but(row: Measurement, without: set[str]) -> Key:
    return tuple(
        value
        for name, value in row.cells.items()
        if name not in without | _NOT_OF_THE_JOB and not name.startswith("measured_")
    )


def _words(row: Measurement, policy: Policy) -> Key:
    """What the patterns of `equal` find."""
    cells = {**row.cells, MICRO_BATCHES: _micro_batches(row)}
    found = []
    for column, patterns in policy.equal.items():
        for pattern in patterns:
            match = re.search(pattern, cells.get(column, ""))
            found.append(match.group() if match else "")
    return tuple(found)


def _micro_batches(row: Measurement) -> str:
    """Micro-batches per step and replica."""
    batch, size, data = (row.number(c) for c in ("global_batch", "micro_batch", "dp"))
    return f"{batch / (size * data):g}" if batch and size and data else ""


def _steps(
    policy: Policy, sides: Sequence[tuple[Measurement, ...]]
) -> Iterator[tuple[Callable[[Measurement], bool], Callable[[Measurement], bool]]]:
    """Yield what tells the reference and the changed rows of each change."""
    column, values = next(iter(policy.differ.items()))
    if values == ASCENDING:
        steps = sorted({row.number(column) or 0.0 for row, *_ in sides})
        for low, high in pairwise(steps):
            yield _numbered(column, low), _numbered(column, high)
    else:
        yield _written(policy, 0), _written(policy, 1)


def _numbered(column: str, value: float) -> Callable[[Measurement], bool]:
    return lambda row: row.number(column) == value


def _written(policy: Policy, side: int) -> Callable[[Measurement], bool]:
    return lambda row: all(
        row.cells.get(column, "") == values[side] for column, values in policy.differ.items()
    )
