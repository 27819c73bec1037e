"""Measured kernels: exact where measured, between neighbours between them, unknown elsewhere."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import log
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import desim
from desim.analyze.metrics import kernel_time_share
from desim.errors import SpecError
from desim.kernels.grid import Grid
from desim.kernels.measured import MeasuredTables
from desim.kernels.model import KernelModel
from desim.kernels.table_file import COLUMNS, MeasuredRow, read_table
from desim.models.op import Op
from desim.plan.build import build_plan
from desim.spec.hardware import Device
from desim.spec.load import load_scenario
from desim.spec.policy import Kernels
from tests.cli.conftest import TINY

SIZES = (64.0, 256.0, 4096.0)
CORNERS = list(product(SIZES, SIZES))


def write(file: Path, rows: list[MeasuredRow]) -> Path:
    lines = [",".join(COLUMNS), *(",".join(row.cells().values()) for row in rows)]
    file.write_text("\n".join(lines) + "\n")
    return file


def gemm_op(m: int, n: int, k: int, variant: str = "forward", output: float = 2.0) -> Op:
    read = 2.0 * (m * k + k * n)
    shape = (m, n, k)
    return Op("gemm", "gemm", "bf16", 2.0 * m * n * k, read, output * m * n, shape, variant)


def norm_op(elements: int) -> Op:
    return Op("norm", "norm", "bf16", elements, 2.0 * elements, 2.0 * elements, (elements,))


@given(st.lists(st.floats(1e-6, 1.0), min_size=9, max_size=9), st.data())
def test_between_neighbours(times: list[float], data: st.DataObject) -> None:
    """Exact at the points; inside a cell no less and no more than its corners took."""
    grid = Grid(dict(zip(CORNERS, times, strict=True)), (1, 1))
    for sizes, seconds in zip(CORNERS, times, strict=True):
        assert grid.at(sizes) == (seconds, "measured")
    low = data.draw(st.sampled_from([0, 1])), data.draw(st.sampled_from([0, 1]))
    cell = [times[3 * (low[0] + i) + low[1] + j] for i in (0, 1) for j in (0, 1)]
    sizes = tuple(data.draw(st.floats(SIZES[i], SIZES[i + 1])) for i in low)
    found = grid.at(sizes)
    assert found is not None
    assert min(cell) * (1 - 1e-9) <= found.seconds <= max(cell) * (1 + 1e-9)


@given(st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3), st.floats(1, 4), st.floats(1, 4))
def test_grows_where_the_points_do(steps: list[float], one: float, other: float) -> None:
    """One axis: larger is never faster, also beyond the largest size."""
    times = [1.0 + sum(steps[:count]) for count in (1, 2, 3)]
    grid = Grid(dict(zip([(size,) for size in SIZES], times, strict=True)), (1,))
    small, large = sorted(64.0 ** (1 + log(x, 4)) for x in (one, other))
    first, second = grid.at((small,)), grid.at((large,))
    assert first is not None
    assert second is not None
    assert first.seconds <= second.seconds * (1 + 1e-9)


def test_a_power_law_is_met_between_points() -> None:
    """t = 3e-9 a b^2 at the points is t = 3e-9 a b^2 between and beyond them."""
    grid = Grid({(a, b): 3e-9 * a * b**2 for a, b in CORNERS}, (1, 2))
    for sizes, source in (((100.0, 1000.0), "measured"), ((8192.0, 5000.0), "extrapolated")):
        found = grid.at(sizes)
        assert found is not None
        assert found.source == source
        assert found.seconds == pytest.approx(3e-9 * sizes[0] * sizes[1] ** 2)


def test_what_a_grid_does_not_know() -> None:
    """Below the smallest size, far beyond the largest, beside a hole."""
    times = {sizes: 1.0 for sizes in CORNERS if sizes != (4096.0, 4096.0)}
    grid = Grid(times, (1, 1))
    for sizes in ((63.0, 64.0), (64.0, 4 * 4096.0 + 1), (1000.0, 1000.0)):
        assert grid.at(sizes) is None
    assert grid.at((100.0, 100.0)) is not None


def test_single_points_cut_no_holes() -> None:
    grid = Grid(
        {(64.0, 256.0): 1.0, **{sizes: 1.0 for sizes in CORNERS}, (99.0, 77.0): 5.0}, (1, 1)
    )
    assert grid.at((99.0, 77.0)) == (5.0, "measured")
    found = grid.at((100.0, 77.0))
    assert found is not None
    assert found.seconds == pytest.approx(1.0)


def test_measured_kernel_in_parts(device: Device) -> None:
    """The parts add up to the time; the one that bounds in the model is the longer one."""
    rows = [MeasuredRow(gemm_op(m, 4096, 4096), 1e-3, device="round") for m in (16, 4096)]
    table = MeasuredTables(rows, "flash2")
    times = [KernelModel(device, Kernels(), table).alone(row.op) for row in rows]
    for time, bound in zip(times, ("memory_s", "compute_s"), strict=True):
        assert time.alone_s == pytest.approx(1e-3)
        assert time.source == "measured"
        assert getattr(time, bound) == max(time.compute_s, time.memory_s)
    table = MeasuredTables([MeasuredRow(norm_op(128), 1e-6)], "flash2")
    short = KernelModel(device, Kernels(), table).alone(norm_op(128))
    assert short.alone_s == pytest.approx(1e-6)


def test_only_like_is_compared_with_like(device: Device) -> None:
    """Format, layout, accumulation, alignment, pass, mask, backend, share of reads."""
    sizes = [1024, 2048]
    rows = [MeasuredRow(gemm_op(m, n, k), 1e-3) for m, n, k in product(sizes, sizes, sizes)]
    shape = (1, 8, 8, 1024, 1024, 128)
    causal = Op(
        "attention", "attention", "bf16", 2.0 * 8 * 1024**2 * 128, 1e6, 1e6, shape, "forward"
    )
    rows += [MeasuredRow(causal, 1e-3, "flash2"), MeasuredRow(norm_op(1024), 1e-3)]
    table = MeasuredTables(rows, "flash2")
    assert table(gemm_op(1536, 1536, 1536)) is not None
    assert table(causal) is not None
    assert table(norm_op(1024)) is not None
    others = [
        replace(gemm_op(1024, 1024, 1024), dtype="fp16"),
        gemm_op(1024, 1024, 1024, "wgrad"),
        gemm_op(1536, 1530, 1536),
        replace(gemm_op(1024, 1024, 1024), shape=(1024, 1024, 1024, 4)),
        replace(causal, variant="backward"),
        replace(causal, flops=2 * causal.flops),
        replace(causal, shape=(1, 8, 2, 1024, 1024, 128)),
        replace(norm_op(1024), write_bytes=0.0),
        replace(norm_op(1024), kind="activation"),
    ]
    assert [table(op) for op in others] == [None] * len(others)
    assert MeasuredTables(rows, "flash1")(causal) is None


def test_the_file_gives_back_its_rows(tmp_path: Path) -> None:
    rows = [
        MeasuredRow(gemm_op(4096, 28672, 8191, "wgrad", 4.0), 1.23456e-3, "", 0.0125, 25, "X", "t"),
        MeasuredRow(norm_op(10**9 + 1), 2e-6, "", 0.5, 3, "X", "t"),
    ]
    assert read_table(write(tmp_path / "x.csv", rows)) == rows


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seconds": "0"}, "seconds above 0"),
        ({"seconds": "nan"}, "finite"),
        ({"shape": "64x64"}, "3 sizes"),
        ({"shape": "64xax64"}, "'a'"),
        ({"runs": ""}, "invalid literal"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, changes: dict[str, str], words: str) -> None:
    cells = MeasuredRow(gemm_op(64, 64, 64), 1e-6).cells() | changes
    file = tmp_path / "x.csv"
    file.write_text(f"{','.join(COLUMNS)}\n{','.join(cells.values())}\n")
    with pytest.raises(SpecError, match=rf"x\.csv:2: .*{words}"):
        read_table(file)


def test_missing_columns_are_named(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text("kind,name\ngemm,x\n")
    with pytest.raises(SpecError, match="lacks the columns backend, device"):
        read_table(file)


def scenario(tmp_path: Path, tables: str) -> Any:
    file = tmp_path / "tiny.yaml"
    file.write_text(f"{TINY}kernels: {{tables: {tables}}}\n")
    return load_scenario(file, ["cluster.system.device.kernels.clock_spread=0"])


def test_which_file_a_scenario_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` finds the device's table in the catalogue; a path is relative to the scenario."""
    monkeypatch.chdir(tmp_path)
    rows = [MeasuredRow(norm_op(1024), 1e-3, device="H100-SXM-80GB")]
    assert scenario(tmp_path, "auto").scenario.kernels.tables == "none"
    folder = tmp_path / "hardware" / "measured"
    folder.mkdir(parents=True)
    file = write(folder / "h100_sxm_80gb.csv", rows)
    assert scenario(tmp_path, "auto").scenario.kernels.tables == str(file)
    assert scenario(tmp_path, "none").scenario.kernels.tables == "none"
    below = scenario(tmp_path, "hardware/measured/h100_sxm_80gb.csv")
    assert below.scenario.kernels.tables == str(file)
    with pytest.raises(SpecError, match=r"tiny.yaml:12: kernels.tables: no such table .*'nowhere'"):
        scenario(tmp_path, "nowhere")


def test_a_table_of_what_the_model_says_changes_nothing(tmp_path: Path) -> None:
    """Half of the kernels measured: the step is the same, the shares say which."""
    calm = scenario(tmp_path, "none").scenario
    plan = build_plan(calm)
    assert kernel_time_share(plan) == {"measured": 0.0, "extrapolated": 0.0, "modelled": 1.0}
    model = KernelModel(calm.cluster.system.device, calm.kernels)
    rows = [
        MeasuredRow(op, model.alone(op).alone_s, "flash2" if op.kind == "attention" else "")
        for op in plan.context.tables.ops
        if op.kind in ("gemm", "attention")
    ]
    rows = [replace(row, device="H100-SXM-80GB") for row in rows]
    write(tmp_path / "mine.csv", rows)
    loaded = scenario(tmp_path, "mine.csv")
    times = build_plan(loaded.scenario).kernel_times
    alone_s = [time.alone_s for time in plan.kernel_times]
    assert [time.alone_s for time in times] == pytest.approx(alone_s, rel=1e-4)
    measured, plain = desim.run(loaded.scenario), desim.run(calm)
    # What runs beside communication is stretched by its parts, which the table does not know.
    assert measured.summary["step_time_s"] == pytest.approx(plain.summary["step_time_s"], rel=1e-2)
    share = measured.summary["kernel_time_share"]
    assert sum(share.values()) == pytest.approx(1.0)
    assert 0.5 < share["measured"] < 1.0
    assert share["extrapolated"] == 0.0
    assert f"{100 * share['measured']:.0f} % measured" in str(measured)
    slow = write(tmp_path / "mine.csv", [replace(row, seconds=2 * row.seconds) for row in rows])
    assert slow.exists()
    assert desim.run(loaded.scenario).summary["step_time_s"] > 1.3 * plain.summary["step_time_s"]


def test_tables_of_another_device_are_noted(tmp_path: Path) -> None:
    write(tmp_path / "mine.csv", [MeasuredRow(norm_op(1024), 1e-3, device="other")])
    notes = desim.run(scenario(tmp_path, "mine.csv").scenario).notes
    assert "kernels.tables: measured on other, not H100-SXM-80GB" in notes
