"""Files of measurements: the rows of a CSV and what was measured in each."""

from __future__ import annotations

import csv
import difflib
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from desim.errors import Mistake, SpecError
from desim.spec.text_file import read_table_text, refuse, shown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: The column that tells a file of memory measurements.
ALLOCATED_GIB, RESERVED_GIB = "meas_peak_alloc_gib", "meas_reserved_gib"
STEP_S, TOKENS_PER_S = "measured_step_time_s", "measured_tokens_per_s_per_gpu"
PEAK, PEAK_UNIT = "measured_peak_memory", "peak_memory_unit"
TIERS = ("A", "B")
#: Bytes of the units of `peak_memory_unit`.
UNITS = {"GB": 1e9, "GiB": 2.0**30}


@dataclass(frozen=True, slots=True)
class Measurement:
    """One row: where it stands, what it is called, and its cells as they are written.

    A file of one's own may leave out `id` (the line counts), `tier` (A) and `family` (own); the
    cells have them all the same, for rules to match.
    """

    line: int
    id: str
    tier: str
    family: str
    cells: dict[str, str]

    def number(self, column: str) -> float | None:
        """Return a cell as a positive finite number, None where it is blank.

        Raises ValueError, which names the column and what stands there.
        """
        text = self.cells.get(column, "").strip()
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{column}: must be a number above 0, got {text!r}")
        return value


@dataclass(frozen=True, slots=True)
class Measurements:
    """The rows of a file; `of_memory` tells a file of peaks from one of step times."""

    rows: tuple[Measurement, ...]
    of_memory: bool
    notes: tuple[str, ...]


def read_measurements(path: Path) -> Measurements:
    """Read a CSV with the columns of `step_time.csv` or `peak_memory.csv`.

    Raises SpecError with every mistake found.
    """
    name = shown(path)
    lines = list(_records(read_table_text(path), name))
    if not lines:
        raise refuse(name, "names no column", "its first line must name the columns")
    (_, head), body = lines[0], lines[1:]
    columns = [column.strip() for column in head]
    mistakes = list(_header_mistakes(columns, name))
    rows: list[Measurement] = []
    seen: dict[str, int] = {}
    for line, cells in body:
        if len(cells) != len(columns):
            rule = f"has {len(cells)} cells where the first line names {len(columns)} columns"
            mistakes.append(Mistake("", rule, "", "quote cells that hold commas", name, line))
            continue
        row = _row(line, dict(zip(columns, cells, strict=True)))
        mistakes.extend(_row_mistakes(row, seen, name))
        rows.append(row)
    if not body:
        mistakes.append(Mistake("", "holds no row below its first line", file=name))
    if mistakes:
        raise SpecError(mistakes)
    return Measurements(tuple(rows), ALLOCATED_GIB in columns, ())


def _row(line: int, cells: dict[str, str]) -> Measurement:
    told = {"id": f"line {line}", "tier": "A", "family": "own"}
    told = {name: cells.get(name, "").strip() or default for name, default in told.items()}
    return Measurement(line, **told, cells=cells | told)


def _header_mistakes(columns: list[str], name: str) -> Iterator[Mistake]:
    for column in sorted({column for column in columns if columns.count(column) > 1}):
        yield Mistake("", "a column stands twice", repr(column), file=name, line=1)
    if not {STEP_S, TOKENS_PER_S, ALLOCATED_GIB} & set(columns):
        close = [
            f"{column!r} is close to {near[0]!r}"
            for column in columns
            if (near := difflib.get_close_matches(column, [STEP_S, TOKENS_PER_S, ALLOCATED_GIB]))
        ]
        rule = f"needs a column {STEP_S}, {TOKENS_PER_S} or {ALLOCATED_GIB}: what was measured"
        yield Mistake("", rule, hint="; ".join(close), file=name, line=1)


def _row_mistakes(row: Measurement, seen: dict[str, int], name: str) -> Iterator[Mistake]:
    if row.id in seen:
        rule = f"an id stands twice (first in line {seen[row.id]})"
        yield Mistake("id", rule, repr(row.id), file=name, line=row.line)
    seen.setdefault(row.id, row.line)
    if row.tier not in TIERS:
        yield Mistake("tier", "must be A or B", repr(row.tier), file=name, line=row.line)


def _records(text: str, name: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the lines that are not blank, each with the number of the line it ends on."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise refuse(name, f"is not valid CSV: {error}", line=reader.line_num) from None


def measured_step_s(row: Measurement) -> float | None:
    """Return the measured step time in seconds, None where nothing was measured.

    Where only tokens per second and GPU are printed, it is batch x sequence over them.
    Raises ValueError for a cell that is no number.
    """
    step_s = row.number(STEP_S)
    if step_s is not None:
        return step_s
    parts = [row.number(c) for c in ("global_batch", "seq_len", TOKENS_PER_S, "num_gpus")]
    batch, tokens, rate_per_s, devices = parts
    if batch is None or tokens is None or rate_per_s is None or devices is None:
        return None
    return batch * tokens / (rate_per_s * devices)


def measured_peak_bytes(row: Measurement) -> float | None:
    """Return the peak of memory that a row of step times also gives, None where it is blank.

    Raises ValueError for a cell that is no number or an unknown unit.
    """
    value = row.number(PEAK)
    if value is None:
        return None
    unit = row.cells.get(PEAK_UNIT, "").strip()
    if unit not in UNITS:
        raise ValueError(f"{PEAK_UNIT}: must be one of {', '.join(UNITS)}, got {unit!r}")
    return value * UNITS[unit]
