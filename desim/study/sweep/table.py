"""Rows of points as a frame and as files."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

from desim.export.files import write_aside

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import pandas as pd

CSV, PARQUET = "points.csv", "points.parquet"


def columns_of(rows: Iterable[Mapping[str, Any]], axes: Sequence[str]) -> list[str]:
    """Return the columns of a table: axes, scalars in the order in which they are met, `error`."""
    found = dict.fromkeys(axes)
    for row in rows:
        found.update(dict.fromkeys(row))
    found.pop("error", None)
    return [*found, "error"]


def frame_of(rows: Sequence[Mapping[str, Any]], axes: Sequence[str]) -> pd.DataFrame:
    """Return rows as a frame; values of an axis that are not of one kind become text."""
    import pandas as pd

    columns = {name: [row.get(name) for row in rows] for name in columns_of(rows, axes)}
    return pd.DataFrame({name: _of_one_kind(values) for name, values in columns.items()})


def _of_one_kind(values: list[Any]) -> list[Any]:
    kinds = {_kind(value) for value in values if value is not None}
    if len(kinds) == 1 and kinds <= {"number", "text", "truth"}:
        return values
    return [None if value is None else text_of(value) for value in values]


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "truth"
    return {int: "number", float: "number", str: "text"}.get(type(value), "other")


def text_of(value: Any) -> str:
    """Write a value for a cell: text as it is, numbers so that they read back equal."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    return repr(value) if isinstance(value, float) else json.dumps(value)


def write_tables(rows: Sequence[Mapping[str, Any]], axes: Sequence[str], folder: Path) -> list[str]:
    """Write points.csv and points.parquet and return their names; equal rows give equal bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = columns_of(rows, axes)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([text_of(row.get(name)) for name in columns] for row in rows)
    write_aside(folder / CSV, text.getvalue().encode())
    table = pa.Table.from_pandas(frame_of(rows, axes), preserve_index=False)
    write_aside(folder / PARQUET, lambda file: pq.write_table(table, file))
    return [CSV, PARQUET]
