"""What others build on: frozen here, so that it changes on purpose and with a CHANGELOG entry."""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path

import desim
from desim import cli
from desim import options as parsers
from desim.analyze.accounting import CATEGORIES
from desim.plan.schedules import AUTOMATIC, SCHEDULES
from desim.report import results
from desim.spec.scenario import Scenario
from desim.study.compare import comparison as comparing
from desim.study.sweep import study_file
from desim.study.sweep.command import PAGE
from desim.study.sweep.journal import JOURNAL
from desim.study.sweep.table import CSV, PARQUET
from tests.cli.conftest import ROOT, TINY

#: Promised to other tools.
PROMISED = {
    "step_time_s", "model_tflop_per_s_per_device", "mfu", "hfu", "parameters", "num_devices",
    "rank_classes", "tasks", "events", "simulate_wall_s", "time_share", "critical_path_share",
    "peak_memory_bytes", "peak_allocated_bytes", "peak_reserved_bytes", "outside_memory_bytes",
    "fits",
}  # fmt: skip
#: There as well.
MORE = {
    "name",
    "device",
    "mesh",
    "stage_time_share",
    "communication",
    "compute_by_kind",
    "kernel_time_share",
    "critical_path",
}
TOKENS = {"tokens_per_s", "tokens_per_s_per_device", "device_hours_per_trillion_tokens"}
SAMPLES = {"samples_per_s", "samples_per_s_per_device", "device_hours_per_billion_samples"}


def test_names_of_the_package() -> None:
    assert desim.__all__ == [
        "DeadlockError", "DesimError", "Mistake", "Result", "SpecError", "compare", "load", "run",
        "sweep",
    ]  # fmt: skip
    assert all(hasattr(desim, name) for name in desim.__all__)


def test_signatures() -> None:
    assert list(inspect.signature(desim.load).parameters) == ["source", "overrides"]
    assert list(inspect.signature(desim.run).parameters) == ["scenario", "watch"]
    assert list(inspect.signature(desim.compare).parameters) == ["scenarios", "processes"]
    assert list(inspect.signature(desim.sweep).parameters) == [
        "study", "out", "jobs", "cluster", "resume", "yes",
    ]  # fmt: skip
    public = {name for name in dir(desim.Result) if not name.startswith("_")}
    fields = set(desim.Result.__dataclass_fields__)
    assert fields == {"scenario", "record", "summary", "notes"}
    assert public - fields == {"spans", "memory", "write", "write_kineto"}
    write = inspect.signature(desim.Result.write).parameters
    assert list(write) == ["self", "folder", "trace", "report"]


def options(parser: argparse.ArgumentParser) -> set[str]:
    return {name for action in parser._actions for name in action.option_strings or [action.dest]}


def test_options_of_the_command_line() -> None:
    assert options(parsers.run_parser()) == {
        "scenario", "--set", "--json", "--out", "--no-trace", "--no-report", "--quiet",
        "--strict-memory", "--version", "-h", "--help",
    }  # fmt: skip
    assert options(parsers.check_parser()) == {"scenario", "--set", "--json", "-h", "--help"}
    assert options(parsers.list_parser()) == {"kind", "-h", "--help"}
    assert options(parsers.validate_parser()) == {
        "file", "--tier", "--only", "--assumptions", "--jobs", "--json", "--table",
        "--write-scenarios", "--report", "--effects", "--quiet", "-h", "--help",
    }  # fmt: skip
    assert options(parsers.calibrate_parser()) == {
        "--out", "--yaml", "--device", "--only", "--formats", "--scenario", "--fit-only", "--quiet",
        "-h", "--help",
    }  # fmt: skip
    assert options(parsers.diff_parser()) == {"trace", "result", "--rank", "--json", "-h", "--help"}
    assert options(parsers.collectives_parser()) == {"file", "--gpu", "--system", "-h", "--help"}
    assert options(parsers.compare_parser()) == {
        "scenarios", "--vary", "--paired", "--retune", "--set", "--out", "--json", "-h", "--help",
    }  # fmt: skip
    assert options(parsers.sweep_parser()) == {
        "study", "--out", "--jobs", "--cluster", "--resume", "--yes", "--quiet", "-h", "--help",
    }  # fmt: skip
    assert parsers.LISTS == (
        "workloads", "devices", "fabrics", "systems", "schedules", "policies",
    )  # fmt: skip
    assert (cli.OK, cli.OURS, cli.YOURS, cli.INTERRUPTED) == (0, 1, 2, 130)


def test_files_of_a_run() -> None:
    names = (results.SUMMARY, results.RESOLVED, results.TRACE, results.SPANS, results.REPORT)
    assert names == (
        "summary.json", "scenario.resolved.yaml", "trace.json.gz", "record.parquet", "report.html",
    )  # fmt: skip


def test_files_of_a_comparison() -> None:
    names = (comparing.NUMBERS, comparing.TRACE, comparing.PAGE, comparing.RESOLVED)
    assert names == (
        "compare.json", "trace.json.gz", "compare.html", "variant_{}.resolved.yaml",
    )  # fmt: skip


def test_files_and_keys_of_a_sweep() -> None:
    assert (CSV, PARQUET, PAGE, JOURNAL) == (
        "points.csv", "points.parquet", "points.html", "points.jsonl",
    )  # fmt: skip
    assert study_file.KEYS == (
        "study", "base", "set", "axes", "zip", "when", "objective", "constraints",
    )  # fmt: skip


def test_keys_of_summary_json(tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(TINY)
    assert set(desim.run(file).summary) == PROMISED | MORE | TOKENS
    samples = desim.run(ROOT / "scenarios" / "dlrm_a_128.yaml").summary
    assert set(samples) == PROMISED | MORE | SAMPLES
    # Only where memory does not suffice.
    little = desim.load(file, ["cluster.system.device.memory=100 MiB"])
    assert set(desim.run(little).summary) == PROMISED | MORE | TOKENS | {"warnings"}


def test_categories_of_time() -> None:
    assert CATEGORIES == (
        "compute", "contention", "exposed_tp", "exposed_cp", "exposed_ep", "exposed_dp",
        "exposed_pp", "exposed_host", "waiting", "bubble", "optimizer", "launch", "other",
    )  # fmt: skip


def test_sections_of_a_scenario_and_schedules() -> None:
    assert list(Scenario.model_fields) == [
        "name", "workload", "cluster", "parallel", "policies", "kernels", "disturb", "run",
        "output",
    ]  # fmt: skip
    assert [*SCHEDULES, *AUTOMATIC] == [
        "gpipe", "1f1b", "interleaved", "breadth_first", "zb_h1", "zb_h2", "dualpipe", "dualpipe_v",
        "zb_1p", "zb_2p", "zb_v", "zb_auto",
    ]  # fmt: skip
