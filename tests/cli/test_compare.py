"""`compare` on the command line: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import ROOT, TINY, Cli, command, files, shell

SCHEDULES = ("--vary", "policies.schedule=1f1b,gpipe")
FILES = [
    "compare.html", "compare.json", "trace.json.gz",
    "variant_1.resolved.yaml", "variant_2.resolved.yaml",
]  # fmt: skip


def test_it_prints_and_writes(tiny: Path, cli: Cli) -> None:
    said = cli("compare", tiny, *SCHEDULES)
    assert said.code == 0
    assert said.err == ""
    assert said.out.startswith("tiny: 2 variants of policies.schedule\n")
    for words in ("step time (ms)", "where the time went", "critical path", "model error"):
        assert words in said.out
    assert max(map(len, said.out.splitlines())) <= 100
    folder = Path("traces_out/compare_tiny")
    assert files(folder) == FILES
    (folder / "variant_3.resolved.yaml").touch()
    assert "left there by an earlier run: variant_3" in cli("compare", tiny, *SCHEDULES).out


def test_json_alone_on_stdout(tiny: Path, cli: Cli) -> None:
    paired = ("--vary", "workload.micro_batch=1,2", "--paired", "--out", "here", "--json")
    said = cli("compare", tiny, *SCHEDULES, *paired)
    assert said.code == 0
    assert [one["set"] for one in said.json["variants"]] == [
        {"policies.schedule": "1f1b", "workload.micro_batch": 1},
        {"policies.schedule": "gpipe", "workload.micro_batch": 2},
    ]
    for one in said.json["variants"]:
        change = one["difference"]
        assert abs(sum(change["by_category"].values()) - change["step_time_s"]) < 1e-6
    assert files(Path("here")) == FILES
    assert Path("here/compare.json").read_text() == said.out


def test_a_price_brings_a_row(tiny: Path, cli: Cli) -> None:
    """Of every variant its cost; none where one of them has no price."""
    said = cli("compare", tiny, "--vary", "cluster.device_hour_price=1,2", "--json")
    costs = [one["summary"]["cost_per_trillion_tokens"] for one in said.json["variants"]]
    assert costs[1] == pytest.approx(2 * costs[0])
    text = cli("compare", tiny, "--vary", "cluster.device_hour_price=1,2").out
    (row,) = [line.split() for line in text.splitlines() if line.startswith("cost per 1e12 tokens")]
    assert row[4:] == [f"{costs[0]:,.0f}", f"{costs[1]:,.0f}", f"+{costs[1] - costs[0]:,.0f}"]
    text = cli("compare", tiny, "--vary", "cluster.device_hour_price=null,2").out
    assert "cost per" not in text


def test_fields_of_no_family_are_named(tiny: Path, cli: Cli) -> None:
    varied = ("--vary", "cluster.device_hour_price=1,2", "--vary", "run.seed=1,2", "--paired")
    said = " ".join(cli("compare", tiny, *varied).out.split())
    assert "points for cluster.device_hour_price and run.seed" in said


def test_several_files(tiny: Path, cli: Cli) -> None:
    other = tiny.with_name("other.yaml")
    other.write_text(
        TINY.replace("pipeline: 2", "pipeline: 4").replace("name: tiny\n", "name: b\n")
    )
    said = cli("compare", tiny, other, "--set", "policies.recompute=full", "--json")
    assert said.code == 0
    sets = [one["set"] for one in said.json["variants"]]
    assert [one["parallel.pipeline"] for one in sets] == [2, 4]
    assert "policies.recompute" not in sets[0]


def test_retuned(tiny: Path, cli: Cli) -> None:
    said = cli("compare", tiny, *SCHEDULES, "--retune", "micro_batch,recompute")
    assert said.code == 0
    assert said.out.count("retuned to micro_batch=") == 2


def test_numbers_of_names_that_are_too_long_for_columns(tiny: Path, cli: Cli) -> None:
    vary = [f"--vary={axis}" for axis in (
        "policies.overlap.tensor=none,megatron", "policies.overlap.grad_reduce=none,bucketed",
        "disturb=[],[{device: 3, compute: 0.5}]",
    )]  # fmt: skip
    said = cli("compare", tiny, *vary)
    assert said.code == 0
    assert "  8: tensor=megatron, grad_reduce=bucketed, disturb=[{device: 3, compute" in said.out
    assert max(map(len, said.out.splitlines())) <= 100


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "at least 2 variants are needed to compare (got 1)"),
        (("--vary", "policies.schedule=1f1b"), "at least 2 variants"),
        (("--vary", "policies.schedul=1f1b,gpipe"), "did you mean 'policies.schedule'?"),
        (("--vary", "policies.schedule=1f1b,gpip"), "variant gpip: --vary: policies.schedule"),
        (("--vary", "policies.schedule=1f1b,1f1b"), "the value stands twice (got 1f1b)"),
        (("--vary", "policies.schedule"), "must be PATH=VALUE,VALUE,..."),
        ((*SCHEDULES, "--vary", "workload.micro_batch=1,2,4", "--paired"),
         "policies.schedule has 2, workload.micro_batch has 3"),
        ((*SCHEDULES, "--paired"), "--paired: needs at least two --vary"),
        (("--paired",), "--paired: needs at least two --vary"),
        ((*SCHEDULES, "--retune", "micro_bach"), "did you mean 'micro_batch'?"),
        ((*SCHEDULES, "--retune", ""), "must be of micro_batch, recompute"),
        (("--vary", "policies.recompute=none,full", "--retune", "recompute"), "is varied"),
        ((*SCHEDULES, "--set", "policies.schedule=zb_h1"),
         "--set policies.schedule=zb_h1: is varied too"),
        (("tiny.yaml",), "is the same scenario as"),
        (("nosuch.yaml",), "nosuch.yaml: does not exist"),
        (("nosuch.yaml", *SCHEDULES), "--vary: varies one scenario"),
        (("--vary", "workload.micro_batch=1,3"), "variant micro_batch=3: tiny.yaml:"),
        (("--vary", "disturb=[],[{link: nosuch, bandwidth: 0.5}]"), "variant disturb=[{link"),
        ((*SCHEDULES, "--out", "tiny.yaml"), "--out: must be a folder"),
        ((*SCHEDULES, "--set", "parallel.tensr=2"), "did you mean 'parallel.tensor'?"),
    ],
)  # fmt: skip
def test_what_is_refused_says_why_and_leaves_nothing(
    tiny: Path, cli: Cli, arguments: tuple[str, ...], said: str
) -> None:
    found = cli("compare", tiny, *arguments)
    assert (found.code, found.out) == (2, "")
    assert said in found.err
    assert "nothing was run or written" in found.err
    assert "Traceback" not in found.err
    assert files(tiny.parent) == ["tiny.yaml"]


def test_a_folder_that_cannot_be_written(tiny: Path, cli: Cli) -> None:
    """What is found only when writing: one line, exit code 2."""
    Path("here").mkdir()
    Path("here/compare.html").mkdir()
    said = cli("compare", tiny, *SCHEDULES, "--out", "here")
    assert said.code == 2
    assert "the results cannot be written" in said.err


@pytest.mark.parametrize("whole_group", [True, False])
def test_interrupted(tmp_path: Path, whole_group: bool) -> None:
    """As a terminal does it, and as `kill` does: at once, no file, no word of other processes."""
    long = (
        ROOT / "scenarios" / "llama70b_2048.yaml", *SCHEDULES, "--set", "run.fold=false",
        "--set", "cluster.devices=512", "--set", "workload.global_batch=256",
    )  # fmt: skip
    process = subprocess.Popen(
        command("compare", *long), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    time.sleep(4)
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert err == "\ndesim: interrupted; no file was left half-written\n"
    assert files(tmp_path) == []


def test_a_bar_on_a_terminal(tiny: Path) -> None:
    ours, theirs = pty.openpty()
    done = subprocess.run(
        command("compare", tiny, *SCHEDULES), cwd=tiny.parent, stdout=subprocess.PIPE,
        stderr=theirs, timeout=120, check=True,
    )  # fmt: skip
    os.close(theirs)
    seen = os.read(ours, 1000)
    os.close(ours)
    assert b"playing 2 variants [" in seen
    assert done.stdout.startswith(b"tiny: 2 variants")


def test_from_python_without_a_guard(tiny: Path) -> None:
    """A script of a user's, and nothing is imported before it is asked for."""
    script = tiny.with_name("script.py")
    script.write_text(
        "import sys, desim\n"
        "assert 'desim.api' not in sys.modules\n"
        "base = desim.load('tiny.yaml')\n"
        "assert 'pandas' not in sys.modules and 'desim.study' not in sys.modules\n"
        "frame = desim.compare([base, desim.load('tiny.yaml', 'policies.schedule=gpipe')])\n"
        "print(len(frame), frame.step_time_s.min() > 0)\n"
    )
    done = subprocess.run(
        [sys.executable, script.name], cwd=tiny.parent, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=120, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("2 True\n", "")


def test_help(tmp_path: Path) -> None:
    said = shell("compare", "--help", cwd=tmp_path)
    assert said.code == 0
    assert "exit codes: 0 done" in said.out


def test_what_a_schedule_does_not_use_changes_nothing_and_is_said(tiny: Path, cli: Cli) -> None:
    said = cli("compare", tiny, "--vary", "parallel.virtual_stages=1,2", "--json")
    assert said.code == 0, said.err
    assert "virtual_stages=2: comes to the same scenario as virtual_stages=1" in said.err
    assert "virtual_stages has no effect under schedule 1f1b" in said.err
    first, second = json.loads(said.out)["variants"]
    assert first["summary"]["step_time_s"] == second["summary"]["step_time_s"]
    assert set(second["difference"]["by_category"].values()) == {0.0}
