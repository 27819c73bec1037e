"""Any value at any path is played or refused: never a traceback, never a result without sense."""

from __future__ import annotations

import json
from math import fsum
from pathlib import Path

import pytest

from desim.spec.schema import all_paths
from tests.cli.conftest import ROOT, Cli

ABSURD = (
    "null", "-1", "0", "1", "2.5", "x", "[]", "{}", "true", "1e30", "1e-30",
    "100000000000000000000", "1 GB/s", "5 us", "7 GB", "9 TFLOPS", "100 W", "0 us", "[1, 3]",
)  # fmt: skip
FEW = ("--no-trace", "--no-report", "--quiet", "--out", "out")


def played_or_refused(cli: Cli, scenario: Path, path: str, value: str) -> None:
    change = f"{path}={value}"
    said = cli(scenario, "--set", change, *FEW)
    assert said.code in (0, 2), (change, said.err)
    assert "Traceback" not in said.err, (change, said.err)
    if said.code == 0:
        summary = json.loads(Path("out/summary.json").read_text())
        shares = summary["time_share"].values()
        assert summary["step_time_s"] > 0, change
        assert min(shares) >= 0, change
        assert fsum(shares) == pytest.approx(1), change


@pytest.mark.parametrize("value", ["0", "-1", "100000000000000000000", "{}"])
def test_some_values_everywhere(tiny: Path, cli: Cli, value: str) -> None:
    for path in all_paths():
        if path.startswith(("workload", "parallel")):
            played_or_refused(cli, tiny, path, value)


@pytest.mark.slow
@pytest.mark.parametrize("value", ABSURD)
@pytest.mark.parametrize("name", ["tiny", "dlrm_a_128"])
def test_every_value_everywhere(tiny: Path, cli: Cli, name: str, value: str) -> None:
    scenario = tiny if name == "tiny" else ROOT / "scenarios" / f"{name}.yaml"
    for path in all_paths():
        played_or_refused(cli, scenario, path, value)
