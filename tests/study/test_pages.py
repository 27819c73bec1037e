"""The page of documentation says what is printed, and a browser draws a sweep's page."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from desim.report.assets import plotly_source
from desim.report.points import Points, front, short_names
from desim.report.sweep_figures import cost_front
from desim.report.sweep_page import write_sweep_page
from desim.study.sweep.points import number_of_points, require_paths
from desim.study.sweep.study_file import read_study
from tests.tools.browser import BROWSER, drawn
from tests.tools.snippets import agrees, examples, run

ROOT = Path(__file__).resolve().parents[2]
STUDIES = sorted((ROOT / "scenarios" / "studies").glob("*.yaml"))
_DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)
_PROBE = """
<script>
document.body.dataset.found = JSON.stringify({
  shapes: Object.fromEntries(["heat", "parallel", "memory", "cost"].map(
    (id) => [id, document.querySelectorAll("#" + id + " .main-svg").length])),
  cells: document.querySelector("#heat").data[0].z,
  axes: ["heat_x", "heat_y"].map((id) => document.getElementById(id).value),
});
</script>
"""


def make_points(**changes: Any) -> Points:
    """Two axes of two values and one without a choice; one point failed, one does not fit."""
    rows: list[dict[str, Any]] = []
    for number, (tensor, schedule) in enumerate(
        ((1, "1f1b"), (1, "</script>"), (2, "1f1b"), (2, "</script>"))
    ):
        row = {"parallel.tensor": tensor, "policies.schedule": schedule, "run.seed": 0}
        if number == 3:
            rows.append(row | {"error": "does not go & that is <all>"})
            continue
        rows.append(
            row
            | {
                "step_time_s": 3.0 - number, "mfu": 0.1 * (number + 1), "num_devices": 8 * tensor,
                "device_hours_per_trillion_tokens": 100.0 * tensor,
                "fits": number < 2, "peak_memory_bytes.max": 2.0**30 * (number + 1),
                "peak_memory_bytes.0": 2.0**30 * (number + 1),
                "peak_reserved_bytes.0": 2.0**30 * (number + 1),
                "outside_memory_bytes.0": 2.0**30, "error": "",
            }
        )  # fmt: skip
    parts: dict[str, Any] = {
        "name": "a & b", "axes": ("parallel.tensor", "policies.schedule", "run.seed"),
        "rows": rows, "objective": "step_time_s", "maximise": False, "constraints": ("fits",),
        "costs": [row.get("step_time_s", math.inf) for row in rows],
        "meets": [bool(row.get("fits")) for row in rows],
    }  # fmt: skip
    return Points(**(parts | changes))


def test_a_price_makes_cost_of_hours() -> None:
    """Where every point that was played has one."""
    points = make_points()
    rows = [row | {"cost_per_trillion_tokens": 3.0} for row in points.rows]
    priced = cost_front(make_points(rows=rows), range(4))
    assert priced["layout"]["yaxis"]["title"]["text"] == "cost per trillion tokens"
    assert priced["data"][-1]["y"] == [3.0]
    same = [row | {"device_hours_per_trillion_tokens": 2 * row["step_time_s"]} for row in rows[:3]]
    assert cost_front(make_points(rows=same), range(3))["data"][-1]["y"] == [3.0]
    for row in same:
        row["cost_per_trillion_tokens"] = 7 * row["step_time_s"]
    assert cost_front(make_points(rows=same), range(3))["data"] == []
    del rows[0]["cost_per_trillion_tokens"]
    some = cost_front(make_points(rows=rows), range(4))
    assert some["layout"]["yaxis"]["title"]["text"] == "GPU-hours per trillion tokens"


def test_the_front_has_no_point_that_another_beats_in_both() -> None:
    pairs = [(1.0, 9.0), (2.0, 3.0), (3.0, 3.0), (4.0, 1.0), (4.0, 2.0), (1.0, 10.0)]
    assert front(pairs) == [0, 1, 3]
    for number, (x, y) in enumerate(pairs):
        beaten = any(a <= x and b <= y and (a, b) != (x, y) for a, b in pairs)
        assert beaten != (number in front(pairs))


def test_names_of_axes_are_as_short_as_tells_them_apart() -> None:
    paths = ["parallel.tensor", "policies.overlap.tensor", "run.seed"]
    assert list(short_names(paths).values()) == ["parallel.tensor", "overlap.tensor", "seed"]


def test_ranking() -> None:
    points = make_points()
    assert points.ranked == [1, 0]
    assert points.failed == [3]
    assert points.varied == ("parallel.tensor", "policies.schedule")


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    write_sweep_page(make_points(), tmp_path / "points.html")
    page = (tmp_path / "points.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', page.replace(plotly_source(), ""))
    assert "a &amp; b" in page
    found = _DATA.search(page)
    assert found is not None
    data = json.loads(found[1])
    assert [axis["path"] for axis in data["heat"]["axes"]] == [
        "parallel.tensor",
        "policies.schedule",
    ]
    assert data["heat"]["shown"] == [3.0, 2.0, 1.0, None]
    assert data["cost"]["data"][-1]["name"] == "Pareto front"
    assert data["cost"]["layout"]["yaxis"]["title"]["text"] == "GPU-hours per trillion tokens"
    assert data["memory"]["data"][-1]["x"] == [2.0, 3.0]


@pytest.mark.skipif(BROWSER is None, reason="needs a Chromium browser")
def test_a_browser_draws_the_page(tmp_path: Path) -> None:
    """No console message, every figure drawn; a cell holds the best point in the constraints."""
    path = tmp_path / "points.html"
    write_sweep_page(make_points(), path)
    path.write_text(path.read_text() + _PROBE)
    found, said = drawn(path)
    # The browser itself warns of its software rendering where there is no GPU.
    assert [line for line in said if "WebGL" not in line and "GPU stall" not in line] == []
    assert min(found["shapes"].values()) > 0, found
    assert found["cells"] == [[3.0, None], [2.0, None]]
    assert found["axes"] == ["0", "1"]


def test_the_page_of_documentation(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "scenarios", tmp_path / "scenarios")
    page = (ROOT / "docs" / "sweep.md").read_text()
    assert len(examples(page)) == 3
    for example, printed in run(page, tmp_path):
        assert example.printed is not None
        assert agrees(printed, example.printed.text), printed
    written = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert written is not None
    assert written[1] in (ROOT / "scenarios" / "studies" / "schedules.yaml").read_text()


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: str(file.stem))
def test_studies_that_come_with_desim(file: Path) -> None:
    study = read_study(file)
    require_paths(study)
    assert study.name == file.stem
    assert 0 < number_of_points(study) <= 100
