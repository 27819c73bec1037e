"""The command `calibrate`: what it says without a GPU, and what it makes of a table."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import pytest

import desim
from desim.calibrate.journal import Journal
from desim.kernels.table_file import MeasuredRow
from desim.models.elementwise import elementwise_op
from tests.cli.conftest import ROOT, TINY, Cli

DEVICE = "H100-SXM-80GB"


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Norms at three quarters of 3.35 TB/s and 4 us."""
    monkeypatch.chdir(tmp_path)
    journal = Journal(tmp_path / "mine.csv", DEVICE)
    for power in range(14, 30):
        op = elementwise_op("norm", "norm", "bf16", 2**power, 2, 2)
        seconds = 4e-6 + 4 * 2**power / (0.75 * 3.35e12)
        journal.add(MeasuredRow(op, seconds, device=DEVICE, software="torch"))
    return journal.file


def test_fit_only_writes_a_device_that_a_scenario_names(table: Path, cli: Cli) -> None:
    said = cli("calibrate", "--fit-only", "--out", table)
    assert said.code == 0, said.err
    (line,) = [line for line in said.out.splitlines() if "memory_efficiency" in line]
    assert line.split()[1:] == ["0.87", "0.75"]
    Path("tiny.yaml").write_text(TINY)
    system = "{base: dgx_h100_ndr400, device: mine.yaml}"
    changes = [f"cluster.system={system}", "kernels.tables=mine.csv"]
    scenario = desim.load("tiny.yaml", changes)
    assert scenario.cluster.system.device.kernels.memory_efficiency == 0.75
    assert desim.run(scenario).summary["kernel_time_share"]["measured"] > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--fit-only"], "needs --out or --device"),
        (["--fit-only", "--out", "none.csv"], "none.csv: does not exist"),
        (["--fit-only", "--device", "h10"], "no device has this name"),
        (["--only", "gemm,sums"], "no such part (got 'sums'); there are gemm, "),
        (["--formats", "int3"], "no such format (got 'int3'); there are bf16, "),
        (["collectives", "none.csv", "--gpu", "x", "--system", "y"], "none.csv: does not exist"),
    ],
)
def test_mistakes_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli, options: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    said = cli("calibrate", *options)
    assert said.code == 2
    assert words in said.err
    assert list(tmp_path.iterdir()) == []


def test_rows_of_an_unknown_gpu(cli: Cli) -> None:
    file = ROOT / "validation" / "collectives.csv"
    said = cli("calibrate", "collectives", file, "--gpu", "none", "--system", "dgx_h100_ndr400")
    assert said.code == 2
    assert "has 0 rows of one node with gpu 'none'" in said.err
    assert "there are a100_sxm, " in said.err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "mine.csv: is empty"),
        ("gpu;op\nx;all_reduce\n", "mine.csv:1: has semicolons between its columns"),
        ("op,nodes\nall_reduce,1\n", "mine.csv:1: lacks the column gpu"),
        ("gpu,op\nx,all_reduce\n", "mine.csv:2: is not a measured collective: lacks the column"),
        (
            "gpu,op,num_gpus,nodes,bytes,time_ms\nx,all_reduce,8,1,large,0.1\n",
            "mine.csv:2: is not a measured collective: could not convert",
        ),
    ],
)
def test_tables_of_collectives_that_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli, content: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.csv").write_text(content)
    options = ("--gpu", "x", "--system", "dgx_h100_ndr400")
    said = cli("calibrate", "collectives", "mine.csv", *options)
    assert (said.code, said.out) == (2, "")
    assert words in said.err


def test_without_a_gpu_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    if importlib.util.find_spec("torch") and importlib.import_module("torch").cuda.is_available():
        pytest.skip("this machine has a GPU")
    monkeypatch.chdir(tmp_path)
    said = cli("calibrate")
    assert said.code == 2
    assert "PyTorch" in said.err
    assert "--fit-only" in said.err
    assert list(tmp_path.iterdir()) == []
