"""The page of a comparison: figures equal the numbers, timelines share an axis."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from desim.analyze.difference import category_seconds
from desim.report.compared import table, warnings
from desim.report.comparison_figures import difference_figure, memory_figure, time_figure
from desim.study.compare.comparison import Comparison, compare_variants
from desim.study.compare.variants import combine, parse_axis, varied
from tests.jobs import BASE
from tests.tools.browser import BROWSER, drawn

_DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    axis = parse_axis("policies.schedule=1f1b,gpipe,zb_h1")
    overrides = ["parallel.pipeline=4", "parallel.tensor=2", "name=</script><b>x"]
    return compare_variants(
        "a </script><b>title", varied(BASE, overrides, combine([axis], paired=False))
    )


def test_bars_are_as_long_as_steps_and_differences(comparison: Comparison) -> None:
    runs = comparison.runs
    for number, run in enumerate(runs):
        parts = [trace["x"][number] for trace in time_figure(runs)["data"]]
        assert sum(parts) == pytest.approx(1e3 * run.step_time_s)
    for number, run in enumerate(runs[1:]):
        *bars, step = difference_figure(runs)["data"]
        assert sum(trace["x"][number] for trace in bars) == pytest.approx(step["x"][number])
        assert step["x"][number] == pytest.approx(1e3 * run.difference.step_time_s)
    for trace, run in zip(memory_figure(runs)["data"], runs, strict=True):
        assert [size * 2**30 for size in trace["y"]] == pytest.approx(
            list(run.summary["peak_memory_bytes"].values())
        )


def test_the_table_sums_up(comparison: Comparison) -> None:
    """The shown times sum to the shown step, but for rounding; so do their differences."""
    _, times, _ = table(comparison.runs)
    *parts, whole = times.rows
    for number in range(3):
        total = sum(float(row.values[number].replace(",", "")) for row in parts)
        assert total == pytest.approx(float(whole.values[number]), abs=0.0006 * len(parts))
    for number in (1, 2):
        total = sum(float(row.differences[number]) for row in parts)
        assert total == pytest.approx(float(whole.differences[number]), abs=0.0006 * len(parts))
    shown = {row.title.strip() for row in parts}
    taken = [c for c, s in category_seconds(comparison.runs[0].summary).items() if s > 1e-4]
    assert {c.replace("_", " ") for c in taken} <= shown


def test_what_is_said_of_all_stands_once(comparison: Comparison) -> None:
    import dataclasses

    runs = [dataclasses.replace(run, notes=("same",)) for run in comparison.runs]
    runs[1] = dataclasses.replace(runs[1], notes=("same", "own"))
    assert warnings(runs) == ["same", "gpipe: own"]


def test_the_page_needs_nothing_else(comparison: Comparison, tmp_path: Path) -> None:
    comparison.write(tmp_path)
    text = (tmp_path / "compare.html").read_text()
    assert not re.search(r'<(script|link|img)[^>]+(src|href)="(?!data:)', text)
    assert "</script><b>" not in text
    assert text.count("plotly.js v") == 1
    data = json.loads(_DATA.search(text).group(1))  # type: ignore[union-attr]
    assert [run["name"] for run in data["runs"]] == ["1f1b", "gpipe", "zb_h1"]
    for path in comparison.settings[0]:
        assert f"<td>{path}</td>" in text
    ranks = [{c["rank"] for c in run["timeline"]["classes"].values()} for run in data["runs"]]
    assert ranks[0] == ranks[1] == ranks[2]


_PROBE = """
<script>setTimeout(() => {
  const count = (id, mark) => document.querySelectorAll(`#${id} ${mark}`).length;
  const texts = (mark) => [...document.querySelectorAll(mark)].map((t) => t.textContent);
  const result = {time: count("time", ".bars .point"), memory: count("memory", ".bars .point"),
    difference: count("difference", ".bars .point"), timeline: count("timeline", ".bars .point"),
    axes: count("timeline", ".xaxislayer-above"), rows: texts("#timeline .ytick text").length,
    heads: texts("#timeline .annotation-text").join("|"),
    ends: count("timeline", ".shapelayer path")};
  document.getElementById("show_lanes").click();
  result.computeRows = texts("#timeline .ytick text").length;
  Plotly.relayout("timeline", {"xaxis.range": [0.001, 0.0012]});
  setTimeout(() => {
    result.zoomed = count("timeline", ".bars .point");
    result.names = texts("#timeline .bartext");
    document.body.dataset.found = JSON.stringify(result);
  }, 500);
}, 1000)</script>
"""


@pytest.mark.skipif(BROWSER is None, reason="needs a Chromium browser")
def test_a_browser_draws_it(comparison: Comparison, tmp_path: Path) -> None:
    """Every figure is drawn, all timelines on one axis under their names; zooming shows kernels."""
    comparison.write(tmp_path)
    path = tmp_path / "compare.html"
    path.write_text(path.read_text() + _PROBE)
    found, said = drawn(path)
    assert said == []
    assert min(found[name] for name in ("time", "difference", "memory", "timeline")) > 0
    assert found["axes"] == 1
    assert found["ends"] >= 3
    assert [name in found["heads"] for name in ("1f1b", "gpipe", "zb_h1")] == [True] * 3
    assert found["computeRows"] == 3 * 4 < found["rows"]
    assert found["zoomed"] > 0
    assert any(not name.isdecimal() for name in found["names"] if name)
