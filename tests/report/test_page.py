"""The report page holds everything, and a browser draws it without complaint."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from desim.api import load, run
from desim.report import timeline
from desim.report.memory import memory_figures
from desim.report.page import write_report
from desim.report.timeline import packed_timeline
from tests.records import make_record
from tests.report.test_summary import make_summary
from tests.tools.browser import BROWSER, drawn

if TYPE_CHECKING:
    from desim.record import Spans

_DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)
_YAML = "name: llama70b_2048\nnote: </script><b>not markup</b>\n"


def _written(tmp_path: Path, **size: int) -> Path:
    record = make_record(**size)
    write_report(record, make_summary(record), _YAML, tmp_path / "report.html")
    return tmp_path / "report.html"


def _columns(packed: dict[str, Any]) -> dict[str, np.ndarray]:
    kinds = {"start": "<u4", "length": "<u4", "label": "<u4", "mb": "<i2", "layer": "<i2"}
    return {
        name: np.frombuffer(base64.b64decode(packed[name]), kind) for name, kind in kinds.items()
    }


def test_the_timeline_holds_every_span_and_wait() -> None:
    """Unpacked, start and length of each row's spans are the record's, to a tick."""
    record = make_record()
    packed = packed_timeline(record)
    columns = _columns(packed)
    row = next(r for r in packed["rows"] if r["class"] == 1 and r["lane"] == "compute")
    chosen = slice(row["first"], row["first"] + row["count"])
    spans = record.spans_of(1)
    expected = spans.start_ps[spans.lane == 0] / 1e12
    found = packed["origin_s"] + columns["start"][chosen] * packed["tick_s"]
    assert found == pytest.approx(expected, abs=2 * packed["tick_s"])
    names = [packed["labels"][code]["name"] for code in columns["label"][chosen]]
    assert names == [record.names[code] for code in spans.name[spans.lane == 0]]
    total = sum(len(record.spans_of(index)) for index in range(2))
    waits = sum("wait" in packed["labels"][code] for code in columns["label"])
    assert waits > 0
    assert sum(r["count"] for r in packed["rows"]) == len(columns["start"]) == total + waits


@pytest.mark.parametrize("limit", [150, 10])
def test_too_many_spans_are_joined(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """Joined by layer, then by pass; no time is added outside of the first and last span."""
    record = make_record()
    whole = _columns(packed_timeline(record))
    monkeypatch.setattr(timeline, "MAX_SPANS", limit)
    packed = packed_timeline(record)
    columns = _columns(packed)
    assert len(columns["start"]) < len(whole["start"])
    ends = [(c["start"] + c["length"]).max() for c in (whole, columns)]
    assert ends[0] == ends[1]
    assert columns["label"].max() < len(packed["labels"])


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    """One copy of plotly, no address to load from, user text escaped."""
    text = _written(tmp_path).read_text()
    assert not re.search(r'<(script|link|img)[^>]+(src|href)="(?!data:)', text)
    assert "</script><b>not markup" not in text
    data = json.loads(_DATA.search(text).group(1))  # type: ignore[union-attr]
    assert set(data) >= {"time_share", "timeline", "memory", "links", "critical_path", "kernels"}
    assert text.count("plotly.js v") == 1


def test_a_record_without_links_memory_or_path(tmp_path: Path) -> None:
    """What a run does not have is said, not drawn."""
    record = make_record(stages=1)
    bare = dataclasses.replace(record, links=(), memory=(), flows=())
    summary = {**make_summary(record), "critical_path": []}
    write_report(bare, summary, "", tmp_path / "report.html")
    assert (tmp_path / "report.html").exists()


def test_times_begin_with_the_first_span() -> None:
    """A step that the simulation reached late does not leave the time before it empty."""
    record = make_record()
    classes = tuple(
        dataclasses.replace(c, window_ps=tuple(at + 10**13 for at in c.window_ps))
        for c in record.classes
    )
    late = dataclasses.replace(
        record, classes=classes, spans_of=lambda c: _later(record.spans_of(c), 10**13)
    )
    packed = packed_timeline(late)
    assert packed["origin_s"] == pytest.approx(10.0)
    assert _columns(packed)["start"].min() == 0


def _later(spans: Spans, by_ps: int) -> Spans:
    names = ("issue_ps", "ready_ps", "start_ps", "end_ps")
    return dataclasses.replace(spans, **{name: getattr(spans, name) + by_ps for name in names})


def test_chunks_have_shades() -> None:
    """In an interleaved pipeline a pass of a later chunk is paler, and the legend says so."""
    record = make_record(layers=4)
    far = {2: 11, 3: 12}
    spans = {}
    for index in range(len(record.classes)):
        old = record.spans_of(index)
        layer = np.array([far.get(layer, layer) for layer in old.layer.tolist()], np.int32)
        spans[index] = dataclasses.replace(old, layer=layer)
    packed = packed_timeline(dataclasses.replace(record, spans_of=lambda c: spans[c]))
    colours = {text["key"]: text["colour"] for text in packed["labels"] if "wait" not in text}
    assert {"forward, chunk 0", "forward, chunk 1", "optimizer"} <= set(colours)
    assert colours["forward, chunk 0"] != colours["forward, chunk 1"]


def test_memory_lasts_to_the_end_of_the_step() -> None:
    """What the ledger holds last is held until the step ends, and before its first sample."""
    record = make_record()
    figures = memory_figures(record)
    assert len(figures["figures"]) == 2
    peaks = [memory.peak_bytes for memory in record.memory]
    assert figures["first"] == peaks.index(max(peaks))
    for trace in figures["figures"][0]["data"]:
        time_s = np.frombuffer(base64.b64decode(trace["x"]["bdata"]), "<f8")
        assert time_s[0] == 0
        assert time_s[-1] == pytest.approx(record.step_time_ps / 1e12)


def test_a_scenario_is_small(tmp_path: Path) -> None:
    """The main scenario's page: at most 8 MB."""
    result = run(load(Path(__file__).parents[2] / "scenarios" / "llama70b_2048.yaml"))
    write_report(result.record, result.summary, _YAML, tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < 8e6


def test_many_spans_stay_small(tmp_path: Path) -> None:
    """170,000 spans: at most 4.5 MB more than plotly itself."""
    record = make_record(stages=8, micro_batches=32, layers=66)
    summary = {**make_summary(record), "stage_time_share": {}, "compute_by_kind": {}}
    write_report(record, summary, _YAML, tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < 9.2e6


_PROBE = """
<script>setTimeout(() => {
  const count = (id, mark) => document.querySelectorAll(`#${id} ${mark}`).length;
  const found = () => ({
    time_share: count("time_share", ".bars .point"), timeline: count("timeline", ".bars .point"),
    memory: count("memory", ".scatterlayer .trace"), links: count("links", ".hm image"),
    critical_path: count("critical_path", ".bars .point"),
    kernels: count("kernels", ".bars .point"),
  });
  const texts = () =>
    [...document.querySelectorAll("#timeline .bartext")].map((t) => t.textContent);
  const rows = () => document.querySelectorAll("#timeline .ytick text").length;
  const result = {whole: found(), numbers: texts(), rows: rows()};
  document.getElementById("show_lanes").click();
  result.computeRows = rows();
  document.getElementById("show_lanes").click();
  Plotly.relayout("timeline", {"xaxis.range": [0.001, 0.0015]});
  setTimeout(() => {
    result.zoomed = found().timeline;
    result.names = texts();
    document.getElementById("zoom_out").click();
    setTimeout(() => {
      const [left, right] = document.getElementById("timeline").layout.xaxis.range;
      result.wider = right - left;
      document.body.dataset.found = JSON.stringify(result);
    }, 300);
  }, 500);
}, 1000)</script>
"""


@pytest.mark.skipif(BROWSER is None, reason="needs a Chromium browser")
def test_a_browser_draws_it(tmp_path: Path) -> None:
    """No console message, every figure drawn, and zooming in shows single kernels."""
    path = _written(tmp_path)
    path.write_text(path.read_text() + _PROBE)
    found, said = drawn(path)
    assert said == []
    assert min(found["whole"].values()) > 0, found["whole"]
    assert {"0", "1", "2", "3"} <= set(found["numbers"])
    assert found["computeRows"] == 2 < found["rows"]
    assert 0 < found["zoomed"] < found["whole"]["timeline"]
    assert "attention" in found["names"]
    assert found["wider"] == pytest.approx(0.001)
