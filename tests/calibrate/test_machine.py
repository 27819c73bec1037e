"""`desim calibrate` without a GPU: what is measured, the journal, the fit, the files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import desim
from desim.calibrate.bench import Hardware, NotPossible, measure, summary_row
from desim.calibrate.cases import Case, grid_cases, host_copy, plan_cases
from desim.calibrate.device_file import load_device, load_devices, write_device
from desim.calibrate.device_fit import fit_device
from desim.calibrate.journal import Journal
from desim.calibrate.recognise import recognise
from desim.errors import SpecError
from desim.kernels.measured import MeasuredTables, place
from desim.kernels.model import KernelModel
from desim.kernels.table_file import MeasuredRow, read_table
from desim.plan.build import build_plan
from desim.spec.hardware import Device
from desim.spec.policy import Kernels
from tests.cli.conftest import TINY

H100 = "h100_sxm_80gb"


@pytest.fixture(scope="module")
def device() -> Device:
    return load_device(H100)


@dataclass
class Formula:
    """A machine whose kernels take what the model says of a device; the third call may stop it."""

    device: Device
    software: str = "formulas"
    stops: bool = False
    asked: list[tuple[str, ...]] = field(default_factory=list)

    def times_s(self, case: Case) -> Sequence[float]:
        self.asked.append(case.key)
        if self.stops and len(self.asked) == 3:
            raise KeyboardInterrupt
        if case.op.kind == "rotary":
            raise NotPossible("no rotary here")
        kernels = Kernels(attention=case.backend or "unfused")  # type: ignore[arg-type]
        return [KernelModel(self.device, kernels).alone(case.op).alone_s * x for x in (0.9, 1, 1.1)]


def ignore(*_: object) -> None:
    """Draw no bar."""


def formula_rows(device: Device, cases: Sequence[Case]) -> list[MeasuredRow]:
    bench = Formula(device)
    return [summary_row(case, bench.times_s(case), device.name, "formulas") for case in cases]


def test_every_case_is_measured_once_and_can_be_looked_up(device: Device) -> None:
    cases = grid_cases(device, ("gemm", "attention", "memory", "copies"))
    assert len({case.key for case in cases}) == len(cases)
    assert {case.part for case in cases} == {"gemm", "attention", "memory", "copies"}
    assert {case.op.dtype for case in cases if case.part == "gemm"} == {"bf16", "fp16", "fp8"}
    assert all(place(case.op, case.backend) for case in cases)
    biggest = max(case.op.read_bytes + case.op.write_bytes for case in cases)
    assert biggest < 0.3 * device.memory_bytes


def test_cases_of_a_scenario_cover_its_products(tmp_path: Path) -> None:
    """After measuring them, every GEMM and attention kernel of the job is a measured one."""
    file = tmp_path / "tiny.yaml"
    file.write_text(TINY)
    plan = build_plan(desim.load(file))
    device = plan.scenario.cluster.system.device
    cases = plan_cases(plan, "flash2")
    table = MeasuredTables(formula_rows(device, cases), "flash2")
    products = [op for op in plan.context.tables.ops if op.kind in ("gemm", "attention")]
    assert len(cases) >= 10
    for op in products:
        time = table(op)
        assert time is not None
        assert time.source == "measured"


def test_an_interrupted_table_is_continued(tmp_path: Path, device: Device) -> None:
    """Nothing that is in the file is measured again, a line that was cut is."""
    cases = grid_cases(device, ("memory",))[:6]
    file = tmp_path / "below" / "x.csv"
    with pytest.raises(KeyboardInterrupt):
        measure(
            cases,
            Journal(file, device.name),
            Formula(device, stops=True),
            device.name,
            ignore,
            ignore,
        )
    assert [row.key for row in read_table(file)] == [case.key for case in cases[:2]]
    file.write_text(file.read_text()[:-20])
    again = Formula(device)
    outcome = measure(cases, Journal(file, device.name), again, device.name, ignore, ignore)
    assert again.asked == [case.key for case in cases[1:]]
    assert (outcome.measured, outcome.known) == (5, 1)
    assert [row.key for row in read_table(file)] == [case.key for case in cases]
    with pytest.raises(SpecError, match="rows of H100-SXM-80GB, and this is other"):
        Journal(file, "other")


def test_what_cannot_run_is_left_out_with_its_reason(tmp_path: Path, device: Device) -> None:
    cases = [case for case in grid_cases(device, ("memory",)) if case.op.kind in ("rotary", "norm")]
    journal = Journal(tmp_path / "x.csv", device.name)
    outcome = measure(cases, journal, Formula(device), device.name, ignore, ignore)
    assert outcome.left_out == {"no rotary here": 6}
    assert {row.op.kind for row in journal.rows} == {"norm"}


def test_median_and_spread_of_the_runs(device: Device) -> None:
    case = grid_cases(device, ("memory",))[0]
    row = summary_row(case, [*range(1, 10), float("nan"), 0.0], "x", "y")
    assert (row.seconds, row.runs) == (5, 9)
    assert row.spread == pytest.approx((8.2 - 1.8) / 5)
    with pytest.raises(NotPossible):
        summary_row(case, [0.0], "x", "y")


def changed(device: Device) -> Device:
    """Return what the device would be with other constants."""
    kernels = device.kernels
    gemm = {**kernels.gemm_efficiency, "bf16": 0.55}
    flash = kernels.attention["flash2"].model_copy(update={"forward": 0.5, "backward": 0.4})
    update = {
        "memory_efficiency": 0.75, "floor_s": 4e-6, "gemm_efficiency": gemm,
        "gemm_accumulate": 0.85, "attention": {**kernels.attention, "flash2": flash},
    }  # fmt: skip
    return device.model_copy(update={"kernels": kernels.model_copy(update=update)})


def test_the_fit_finds_what_the_kernels_obey(device: Device) -> None:
    """Constants come back, errors end near nothing, what no row shows stays."""
    truth = changed(device)
    gemms = grid_cases(device, ("gemm",), ("bf16",))[::9]
    flash = [c for c in grid_cases(device, ("attention",)) if c.backend == "flash2"][::7]
    cases = [*grid_cases(device, ("memory",)), *gemms, *flash, Case(host_copy("to_host", 2**30))]
    rows = [
        row for case in cases if case.op.kind != "rotary" for row in formula_rows(truth, [case])
    ]
    fit = fit_device(device, rows)
    found, wanted = fit.device.kernels, truth.kernels
    assert found.memory_efficiency == pytest.approx(0.75, rel=0.01)
    assert found.floor_s == pytest.approx(4e-6, rel=0.02)
    assert found.gemm_efficiency["bf16"] == pytest.approx(0.55, rel=0.03)
    assert found.gemm_accumulate == pytest.approx(0.85, rel=0.02)
    assert found.attention["flash2"].forward == pytest.approx(0.5, rel=0.03)
    assert found.attention["flash2"].backward == pytest.approx(0.4, rel=0.03)
    assert found.attention["flash3"] == wanted.attention["flash3"]
    assert found.gemm_efficiency["fp8"] == wanted.gemm_efficiency["fp8"]
    for error in fit.errors:
        assert error.after[0] < 0.02, error
        assert error.after[0] < error.before[0], error
    assert {"floor_s", "memory_efficiency"} < {name for name, _, _ in fit.changes}
    assert dict(fit.copies)["to_host"] == pytest.approx(2**30 / rows[-1].seconds)


def test_the_device_is_recognised() -> None:
    devices = load_devices()
    for driver, sms, memory, name in (
        ("NVIDIA H100 80GB HBM3", 132, 79.2, "h100_sxm_80gb"),
        ("NVIDIA H100 PCIe", 114, 79.2, "h100_pcie_80gb"),
        ("NVIDIA H200", 132, 139.8, "h200_sxm_141gb"),
        ("NVIDIA A100-SXM4-40GB", 108, 39.4, "a100_sxm_40gb"),
        ("NVIDIA A100 80GB PCIe", 108, 79.3, "a100_pcie_80gb"),
        ("Tesla V100-SXM2-16GB", 80, 15.8, "v100_sxm2_16gb"),
    ):
        assert recognise(Hardware(driver, sms, memory * 2**30, 1), devices) == name
    with pytest.raises(SpecError, match="no device of the catalogue match"):
        recognise(Hardware("NVIDIA GeForce RTX 4090", 128, 24 * 2**30, 1), devices)


def test_a_written_device_is_the_device(
    tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_device(changed(device), ["why"], Path("mine.yaml"))
    assert Path("mine.yaml").read_text().startswith("# why\n")
    assert load_device("./mine.yaml") == changed(device)
    with pytest.raises(SpecError, match="no device has this name"):
        load_device("h100")


def test_kernels_of_pytorch_on_the_host(device: Device) -> None:
    """Every kernel that needs no GPU runs; times are positive."""
    pytest.importorskip("torch", reason="the optional extra calibrate is not installed")
    from desim.calibrate.torch_bench import TorchBench

    bench = TorchBench("cpu")
    streams = [c for c in grid_cases(device, ("memory",)) if c.op.shape == (2**18,)]
    for case in streams:
        assert min(bench.times_s(case)) > 0
    with pytest.raises(NotPossible):
        bench.times_s(Case(host_copy("to_host", 1024)))
