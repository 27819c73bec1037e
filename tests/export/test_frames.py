"""The spans as tables."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import pytest

from desim.export import frames
from desim.record import LANES, PHASES, PS_PER_S
from tests.records import make_record

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("rows_per_group", [1, 10**6])
def test_parquet_read_back_equals_the_spans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_per_group: int
) -> None:
    """Every column, exactly, in one row group or in several."""
    monkeypatch.setattr(frames, "_ROWS_PER_GROUP", rows_per_group)
    record = make_record()
    frames.write_parquet(record, tmp_path / "record.parquet")
    frame = pq.read_table(tmp_path / "record.parquet").to_pandas()
    for index, rank_class in enumerate(record.classes):
        spans = record.spans_of(index)
        rows = frame[frame["rank"] == rank_class.representative]
        assert set(rows["stage"]) == {rank_class.stage}
        assert set(rows["ranks"]) == {rank_class.count}
        for column in ("size_bytes", "issue_ps", "ready_ps", "start_ps", "end_ps", "alone_ps"):
            assert np.array_equal(rows[column], getattr(spans, column)), column
        for column in ("micro_batch", "layer"):
            assert np.array_equal(rows[column].fillna(-1), getattr(spans, column)), column
        words = {"lane": LANES, "name": record.names, "kind": record.kinds, "phase": PHASES}
        for column, table in words.items():
            assert list(rows[column]) == [table[code] for code in getattr(spans, column)]
        groups = [record.groups[code] if code >= 0 else None for code in spans.group]
        assert [group if isinstance(group, str) else None for group in rows["group"]] == groups


def test_the_frame_is_the_table() -> None:
    """Text columns are categories, one row a span."""
    record = make_record()
    frame = frames.spans_frame(record)
    assert len(frame) == sum(len(record.spans_of(index)) for index in range(len(record.classes)))
    assert frame["name"].dtype == "category"
    for index, rank_class in enumerate(record.classes):
        spans, rows = record.spans_of(index), frame[frame["rank"] == rank_class.representative]
        begin = rank_class.window_ps[0]
        for column in ("issue", "ready", "start", "end"):
            expected = (getattr(spans, f"{column}_ps") - begin) / PS_PER_S
            assert np.array_equal(rows[f"{column}_s"], expected), column
        assert np.allclose(rows["duration_s"], (spans.end_ps - spans.start_ps) / PS_PER_S)
    by_lane = frame.groupby("lane", observed=True)
    assert int(by_lane.size()["compute"]) == int((frame["lane"] == "compute").sum())


def test_groups_of_the_same_name() -> None:
    """Each stage has its own groups of an axis, and they look alike."""
    record = make_record()
    alike = replace(record, groups=("tp of 8",) * len(record.groups))
    frame = frames.spans_frame(alike)
    assert set(frame["group"].dropna()) == {"tp of 8"}
