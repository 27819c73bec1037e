"""The spans of every rank class as one table: pyarrow, Parquet, pandas."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

import numpy as np

from desim.export.files import write_aside
from desim.record import LANES, PHASES, PS_PER_S

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq
    from numpy.typing import NDArray

    from desim.record import Record

_ROWS_PER_GROUP = 1_000_000


def spans_table(record: Record) -> pa.Table:
    """Return one row per span of every rank class, in the order of classes and of issue.

    `rank` is the class's representative and `ranks` how many behave like it. Text columns are
    dictionary encoded; `micro_batch`, `layer` and `group` are null where they do not apply.
    """
    import pyarrow as pa

    return pa.concat_tables(list(_class_tables(record)))


def spans_frame(record: Record) -> pd.DataFrame:
    """Return `spans_table` as a pandas frame with categorical text columns and times in seconds.

    Every `_ps` column becomes an `_s` column counted from the start of the rank's measured step
    (`alone_s`: a length), and `duration_s` is added.
    """
    frame: pd.DataFrame = spans_table(record).to_pandas()
    lengths = [len(record.spans_of(index)) for index in range(len(record.classes))]
    starts = np.repeat([rank_class.window_ps[0] for rank_class in record.classes], lengths)
    for name in ("issue", "ready", "start", "end"):
        frame[f"{name}_s"] = (frame.pop(f"{name}_ps") - starts) / PS_PER_S
    frame["alone_s"] = frame.pop("alone_ps") / PS_PER_S
    frame["duration_s"] = frame["end_s"] - frame["start_s"]
    return frame


def memory_frame(record: Record) -> pd.DataFrame:
    """Return one row per ledger sample of every rank class: rank, stage, time_s, bytes by owner."""
    import pandas as pd

    parts = []
    for rank_class, memory in zip(record.classes, record.memory, strict=True):
        columns = {owner: memory.by_owner[i] for i, owner in enumerate(memory.owners)}
        place = {"rank": rank_class.representative, "stage": rank_class.stage}
        time_s = (memory.time_ps - rank_class.window_ps[0]) / PS_PER_S
        parts.append(pd.DataFrame({"time_s": time_s, **columns}).assign(**place))
    return pd.concat(parts, ignore_index=True)


def write_parquet(record: Record, path: Path | str) -> None:
    """Write `spans_table` to a Parquet file, a group of rank classes at a time."""
    write_aside(path, lambda file: _write(record, file))


def _write(record: Record, file: IO[bytes]) -> None:
    import pyarrow as pa

    writer = None
    pending: list[pa.Table] = []
    tables = _class_tables(record)
    table = next(tables, None)
    while table is not None:
        pending.append(table)
        table = next(tables, None)
        if table is None or sum(map(len, pending)) >= _ROWS_PER_GROUP:
            group = pa.concat_tables(pending)
            writer = writer or _writer(file, group.schema)
            writer.write_table(group)
            pending = []
    if writer is not None:
        writer.close()


def _writer(file: IO[bytes], schema: pa.Schema) -> pq.ParquetWriter:
    """Open a Parquet file: times grow slowly, so differences pack well; text has few values."""
    import pyarrow.parquet as pq

    times = [name for name in schema.names if name.endswith("_ps")]
    return pq.ParquetWriter(
        file,
        schema,
        compression="zstd",
        use_dictionary=[name for name in schema.names if name not in times],
        column_encoding=dict.fromkeys(times, "DELTA_BINARY_PACKED"),
    )


def _class_tables(record: Record) -> Iterator[pa.Table]:
    import pyarrow as pa

    for index, rank_class in enumerate(record.classes):
        spans = record.spans_of(index)
        size = len(spans)
        columns = {
            "rank": pa.array(np.full(size, rank_class.representative, np.int32)),
            "ranks": pa.array(np.full(size, rank_class.count, np.int32)),
            "stage": pa.array(np.full(size, rank_class.stage, np.int16)),
            "lane": _encoded(spans.lane, LANES),
            "name": _encoded(spans.name, record.names),
            "kind": _encoded(spans.kind, record.kinds),
            "phase": _encoded(spans.phase, PHASES),
            "micro_batch": pa.array(spans.micro_batch, mask=spans.micro_batch < 0),
            "layer": pa.array(spans.layer, mask=spans.layer < 0),
            "group": _encoded(spans.group, record.groups),
            "size_bytes": pa.array(spans.size_bytes),
            "issue_ps": pa.array(spans.issue_ps),
            "ready_ps": pa.array(spans.ready_ps),
            "start_ps": pa.array(spans.start_ps),
            "end_ps": pa.array(spans.end_ps),
            "alone_ps": pa.array(spans.alone_ps),
        }
        yield pa.table(columns)


def _encoded(codes: NDArray[np.signedinteger], words: Sequence[str]) -> pa.DictionaryArray:
    import pyarrow as pa

    # Several groups may have the same name; an entry of a dictionary stands once.
    number = {word: index for index, word in enumerate(dict.fromkeys(words))}
    of = np.array([*(number[word] for word in words), -1], dtype=np.int32)
    indices = pa.array(of[codes], mask=codes < 0)
    return pa.DictionaryArray.from_arrays(indices, pa.array(list(number), pa.string()))
