"""`python -m desim SCENARIO`: options, files, and what is printed."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

import desim
from desim.report.folder import default_folder
from tests.cli.conftest import ROOT, Cli, files, shell

ALL = ["record.parquet", "report.html", "scenario.resolved.yaml", "summary.json", "trace.json.gz"]
SMALL = ["scenario.resolved.yaml", "summary.json"]


def test_as_a_user_does(tiny: Path) -> None:
    said = shell("tiny.yaml", cwd=tiny.parent)
    assert said.code == 0
    assert said.err == ""
    assert said.out.startswith("tiny: 8 H100-SXM-80GB, ")
    assert "written to traces_out/tiny: summary.json, scenario.resolved.yaml" in said.out
    assert files(tiny.parent) == ["tiny.yaml", "traces_out"]
    assert files(tiny.parent / "traces_out" / "tiny") == ALL


def test_json_is_all_that_is_printed(tiny: Path, cli: Cli) -> None:
    said = cli(tiny, "--json", "--out", "here")
    assert (said.code, said.err) == (0, "")
    assert said.json == json.loads(Path("here/summary.json").read_text())
    assert files(Path("here")) == ALL


@pytest.mark.parametrize(
    ("option", "written"),
    [
        (["--no-trace"], [*SMALL, "report.html"]),
        (["--no-report"], [*SMALL, "record.parquet", "trace.json.gz"]),
        (["--no-trace", "--no-report"], SMALL),
        (["--set", "output={trace: none, report: false}"], SMALL),
    ],
)
def test_what_is_left_out(tiny: Path, cli: Cli, option: list[str], written: list[str]) -> None:
    assert cli(tiny, "--out", "here", "--quiet", *option).code == 0
    assert files(Path("here")) == sorted(written)


def test_quiet_prints_nothing(tiny: Path, cli: Cli) -> None:
    said = cli(tiny, "--quiet", "--no-trace", "--no-report")
    assert (said.code, said.out, said.err) == (0, "", "")
    assert files(Path("traces_out/tiny")) == SMALL


def test_set_overrides_any_value(tiny: Path, cli: Cli) -> None:
    few = ["--no-trace", "--no-report", "--json"]
    before = cli(tiny, *few).json
    slow = cli(tiny, *few, "--set", "disturb=[{device: 3, compute: 0.8}]").json
    assert slow["step_time_s"] > before["step_time_s"]
    assert slow["rank_classes"] > before["rank_classes"]
    changes = ["--set", "policies.schedule=gpipe", "--set", "name=other"]
    other = cli(tiny, *few, *changes).json
    assert other["name"] == "other"
    assert Path("traces_out/other/summary.json").exists()
    resolved = desim.load("traces_out/other/scenario.resolved.yaml")
    assert resolved.policies.schedule == "gpipe"


def test_the_resolved_scenario_gives_the_same_results(tiny: Path, cli: Cli) -> None:
    few = ["--no-trace", "--no-report", "--json"]
    first = cli(tiny, *few).json
    again = cli("traces_out/tiny/scenario.resolved.yaml", *few, "--out", "again").json
    first.pop("simulate_wall_s"), again.pop("simulate_wall_s")
    assert first == again


def test_equal_runs_give_equal_bytes(tiny: Path, cli: Cli) -> None:
    for folder in ("a", "b"):
        cli(tiny, "--out", folder, "--quiet")
    assert Path("a/trace.json.gz").read_bytes() == Path("b/trace.json.gz").read_bytes()
    assert Path("a/record.parquet").read_bytes() == Path("b/record.parquet").read_bytes()


def test_the_trace_is_what_perfetto_opens(tiny: Path, cli: Cli) -> None:
    cli(tiny, "--no-report", "--quiet")
    with gzip.open("traces_out/tiny/trace.json.gz", "rt") as stream:
        events = json.load(stream)["traceEvents"]
    assert {"X", "M"} <= {event["ph"] for event in events}


def test_an_existing_folder_is_overwritten_file_by_file(tiny: Path, cli: Cli) -> None:
    out = Path("here")
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    (out / "summary.json").write_text("old")
    (out / "report.html").write_text("old")
    said = cli(tiny, "--out", out, "--no-report")
    assert (out / "notes.txt").read_text() == "mine"
    assert json.loads((out / "summary.json").read_text())["name"] == "tiny"
    assert (out / "report.html").read_text() == "old"
    assert "left there by an earlier run: report.html" in said.out
    assert cli(tiny, "--out", out, "--quiet").code == 0
    assert files(out) == sorted([*ALL, "notes.txt"])


@pytest.mark.parametrize(
    ("name", "folder"),
    [("a/b", "a_b"), ("../../etc", "_.._etc"), ("..", "run"), ("", "run"), ("a b.c-1", "a_b.c-1")],
)
def test_no_name_leads_out_of_the_results_folder(name: str, folder: str) -> None:
    assert default_folder(name) == Path("traces_out") / folder


def test_a_warning_is_no_mistake(tiny: Path, cli: Cli) -> None:
    wide = ["--set", "cluster.devices=16", "--set", "parallel={tensor: 16}"]
    model = ["--set", "workload.model.heads=16", "--set", "workload.model.kv_heads=16"]
    for option in ("--json", "--quiet"):
        said = cli(tiny, *wide, *model, option, "--no-trace", "--no-report")
        assert said.code == 0
        assert said.err.startswith("warning: parallel.tensor: ")
        assert "beyond the NVLink domain of 8" in said.err
    assert said.out == ""


def test_output_that_cannot_be_encoded(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    said = shell(
        "tiny.yaml", "--set", "name=caf\u00e9", "--no-trace", "--no-report", cwd=tiny.parent
    )
    assert said.code == 0
    assert said.out.startswith("caf\\xe9: 8 H100-SXM-80GB")


def test_the_scenarios_of_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    monkeypatch.chdir(tmp_path)
    scenarios = sorted((ROOT / "scenarios").glob("*.yaml"))
    assert len(scenarios) >= 3
    for scenario in scenarios:
        summary = cli(scenario, "--no-trace", "--no-report", "--json").json
        assert summary["fits"]
        assert 0 < summary["mfu"] <= summary["hfu"] < 1
