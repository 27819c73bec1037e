"""Sweeps: one row a point, the same bytes however they are played, nothing finished is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

import desim
from desim.errors import SpecError
from desim.study.scalars import scalars
from desim.study.sweep.journal import JOURNAL, Finished, Journal
from tests.cli.conftest import Cli, command, files

TABLES = ("points.csv", "points.parquet")


def tables(folder: str) -> dict[str, bytes]:
    return {name: (Path(folder) / name).read_bytes() for name in TABLES}


def journal(folder: str) -> list[str]:
    return (Path(folder) / JOURNAL).read_text().splitlines()


@pytest.fixture
def long_study(study_file: Path) -> Path:
    """The study with 4 seeds for each of its points: 48 that can be played."""
    text = study_file.read_text().replace(
        "axes:\n", "axes:\n  run.seed: {from: 1, to: 4, step: 1}\n"
    )
    study_file.write_text(text)
    return study_file


def started(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command("sweep", *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_points(folder: str, count: int) -> None:
    file = Path(folder) / JOURNAL
    for _ in range(1200):
        if file.is_file() and file.read_bytes().count(b"\n") > count:
            return
        time.sleep(0.05)
    raise AssertionError(f"no {count} points in a minute")


def children(process: subprocess.Popen[str]) -> list[int]:
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(pid) for pid in listed.split()]


def test_a_row_for_every_point(study_file: Path, cli: Cli) -> None:
    """Axis paths, the scalars of `run`'s summary, the reason of those that fail."""
    said = cli("sweep", study_file)
    assert said.code == 0
    folder = Path("traces_out/tiny")
    assert files(folder) == ["points.csv", "points.html", "points.jsonl", "points.parquet"]
    frame = pd.read_csv(folder / "points.csv", keep_default_na=False)
    assert list(frame.columns[:4]) == [
        "parallel.tensor", "parallel.pipeline", "policies.schedule", "step_time_s",
    ]  # fmt: skip
    assert frame.columns[-1] == "error"
    assert len(frame) == 18
    refused = frame[frame["parallel.tensor"] == 3]
    assert (refused.error != "").all()
    assert refused.error.iloc[0].startswith("workload.sequence_length: must be a multiple")
    assert "6 failed" in said.out
    for row in frame[frame.error == ""].to_dict("records")[:3]:
        axes = frame.columns[:3]
        run = desim.run(
            desim.load("tiny.yaml", ["policies.recompute=full", *(f"{a}={row[a]}" for a in axes)])
        )
        assert float(row["step_time_s"]) == run.summary["step_time_s"]
        assert float(row["time_share.compute"]) == run.summary["time_share"]["compute"]
        largest = max(run.summary["peak_memory_bytes"].values())
        assert float(row["peak_memory_bytes.max"]) == largest


def test_the_best_point_stands_first(study_file: Path, cli: Cli) -> None:
    study_file.write_text(study_file.read_text().replace("step_time_s", "{maximise: mfu}"))
    said = cli("sweep", study_file)
    frame = pd.read_csv("traces_out/tiny/points.csv")
    best = frame.loc[frame.mfu.idxmax()]
    lines = said.out.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("largest mfu with fits"))
    assert lines[head + 1].split()[:3] == ["tensor", "pipeline", "schedule"]
    first = lines[head + 2].split()
    assert first[:2] == [str(best["parallel.tensor"]), str(best["parallel.pipeline"])]
    assert "  0.00 %" in lines[head + 2]


def test_the_same_bytes_with_any_number_of_processes(study_file: Path, cli: Cli) -> None:
    for jobs in ("1", "2", "3"):
        assert cli("sweep", study_file, "--out", jobs, "--jobs", jobs).code == 0
    assert tables("1") == tables("2") == tables("3")


def test_the_same_bytes_in_any_order(study_file: Path, cli: Cli) -> None:
    """A journal in another order, as other machines would finish, resumes to the same tables."""
    cli("sweep", study_file, "--out", "a")
    head, *entries = journal("a")
    Path("b").mkdir()
    (Path("b") / JOURNAL).write_text("\n".join([head, *entries[::-1]]) + "\n")
    assert cli("sweep", study_file, "--out", "b", "--resume").code == 0
    assert tables("a") == tables("b")
    assert len(journal("b")) == len(entries) + 1


def test_resuming_equals_not_being_interrupted(study_file: Path, cli: Cli) -> None:
    """Also where the last line was cut; points that were finished are not played again."""
    cli("sweep", study_file, "--out", "a")
    head, *entries = journal("a")
    Path("b").mkdir()
    cut = "\n".join([head, *entries[:5], entries[5][:40]])
    (Path("b") / JOURNAL).write_text(cut)
    said = cli("sweep", study_file, "--out", "b", "--resume")
    assert said.code == 0
    assert f"{len(entries) - 5} scenarios played" in said.out
    assert "5 were there before" in said.out
    assert tables("a") == tables("b")
    assert sorted(journal("b")) == sorted([head, *entries])


def test_resuming_from_nothing_just_starts(study_file: Path, cli: Cli) -> None:
    assert cli("sweep", study_file, "--resume").code == 0
    again = cli("sweep", study_file, "--resume")
    assert "0 scenarios played" in again.out
    assert "12 were there before" in again.out


def test_a_folder_without_finished_points_holds_nothing(study_file: Path, cli: Cli) -> None:
    """As it is left where a sweep ended before its first point."""
    Journal(Path("a"), "tiny", resume=False).close()
    assert len(journal("a")) == 1
    assert cli("sweep", study_file, "--out", "a").code == 0


def test_equal_scenarios_are_played_once(study_file: Path, cli: Cli) -> None:
    """`data: auto` is the number that it stands for; names change nothing."""
    study_file.write_text(
        "study: tiny\nbase: tiny.yaml\naxes:\n  parallel.data: [8, auto]\n  name: [a, b]\n"
    )
    said = cli("sweep", study_file)
    assert "1 scenario played" in said.out
    frame = pd.read_csv("traces_out/tiny/points.csv")
    assert len(frame) == 4
    assert frame.step_time_s.nunique() == 1


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_killed_in_the_middle_nothing_finished_is_lost(
    long_study: Path, cli: Cli, jobs: str
) -> None:
    whole = cli("sweep", long_study, "--out", "whole")
    assert whole.code == 0
    process = started(str(long_study), "--out", "cut", "--jobs", jobs)
    wait_for_points("cut", 10)
    workers = children(process)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    before = journal("cut")
    assert 10 <= len(before) - 1 < 48
    for _ in range(100):  # none of its processes is left waiting for work
        if not any(Path(f"/proc/{pid}").exists() for pid in workers):
            break
        time.sleep(0.1)
    else:
        raise AssertionError("a process of a killed sweep goes on")
    assert cli("sweep", long_study, "--out", "cut", "--resume", "--jobs", "2").code == 0
    assert set(before[:-1]) <= set(journal("cut"))
    assert tables("cut") == tables("whole")


def test_a_lost_worker_costs_no_point(long_study: Path, cli: Cli) -> None:
    cli("sweep", long_study, "--out", "whole")
    process = started(str(long_study), "--out", "cut", "--jobs", "2")
    wait_for_points("cut", 10)
    os.kill(children(process)[-1], signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert tables("cut") == tables("whole")


def test_ctrl_c_keeps_finished_points_and_says_how_to_go_on(long_study: Path) -> None:
    process = started(str(long_study), "--out", "cut", "--jobs", "2")
    wait_for_points("cut", 10)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    kept = len(journal("cut")) - 1
    assert err == (
        f"\ndesim: interrupted; {kept} finished points are kept in cut;"
        " the same command with --resume goes on\n"
    )
    assert files(Path("cut")) == [JOURNAL]


def test_a_full_disk(study_file: Path, cli: Cli) -> None:
    """Every write to /dev/full fails as on a disk without room."""
    Path("out").mkdir()
    (Path("out") / JOURNAL).symlink_to("/dev/full")
    said = cli("sweep", study_file, "--out", "out")
    assert said.code == 2
    assert "error: the results cannot be written: No space left on device: out/" in said.err
    assert "--resume goes on" in said.err
    assert "Traceback" not in said.err


def test_a_folder_that_cannot_be_made_keeps_nothing(study_file: Path, cli: Cli) -> None:
    said = cli("sweep", study_file, "--out", "/proc/nowhere")
    assert said.code == 2
    assert said.err.startswith("error: the results cannot be written: ")
    assert said.err.endswith(": /proc/nowhere\ndesim: no point is finished\n")


def test_a_folder_with_points_is_not_written_over(study_file: Path, cli: Cli) -> None:
    cli("sweep", study_file, "--out", "a")
    before = tables("a"), journal("a")
    said = cli("sweep", study_file, "--out", "a")
    assert said.code == 2
    assert "holds 12 finished points of this study" in said.err
    assert "--resume goes on from them; another --out starts afresh" in said.err
    study_file.write_text(study_file.read_text().replace("study: tiny", "study: other"))
    said = cli("sweep", study_file, "--out", "a", "--resume")
    assert said.code == 2
    assert "holds points of the study 'tiny', and this is 'other'" in said.err
    assert (tables("a"), journal("a")) == before


@pytest.mark.parametrize(
    ("line", "text", "said"),
    [
        (0, '{"study": "tiny", "desim": "0.0.1", "form": 1}', "written by desim 0.0.1"),
        (0, "{}", "is not the journal of a sweep"),
        (3, "\0\0\0\0", ":4: is not a finished point: the file is damaged"),
        (3, '{"key": "k"}', ":4: is not a finished point: the file is damaged"),
    ],
)
def test_a_journal_that_cannot_be_gone_on_from(
    study_file: Path, cli: Cli, line: int, text: str, said: str
) -> None:
    cli("sweep", study_file, "--out", "a")
    lines = journal("a")
    lines[line] = text
    (Path("a") / JOURNAL).write_text("\n".join(lines) + "\n")
    refused = cli("sweep", study_file, "--out", "a", "--resume")
    assert refused.code == 2
    assert said in refused.err


def test_two_sweeps_do_not_write_into_one_folder(tmp_path: Path) -> None:
    first = Journal(tmp_path, "s", resume=True)
    first.add("k", Finished({"x": 1.5}))
    with pytest.raises(SpecError, match="another sweep is writing here"):
        Journal(tmp_path, "s", resume=True)
    first.close()
    again = Journal(tmp_path, "s", resume=True)
    assert again.found == {"k": Finished({"x": 1.5})}
    again.close()


def test_very_many_points_are_asked_for_twice(study_file: Path, cli: Cli) -> None:
    study_file.write_text(
        study_file.read_text().replace(
            "axes:\n", "axes:\n  run.seed: {from: 1, to: 60000, step: 1}\n"
        )
    )
    began_s = time.monotonic()
    said = cli("sweep", study_file, "--jobs", "2")
    assert said.code == 2
    assert "has 1,080,000 points, more than 10,000: about " in said.err
    assert "on 2 processes" in said.err
    assert "--yes plays them all" in said.err
    assert time.monotonic() - began_s < 60
    assert not Path("traces_out").exists()


def test_points_that_all_fail(study_file: Path, cli: Cli) -> None:
    text = study_file.read_text().replace("[1, 2, 3]", "[3, 5]")
    study_file.write_text(text)
    said = cli("sweep", study_file)
    assert said.code == 2
    assert "12 points, 12 failed" in said.out
    assert said.err == "error: no point could be played; `error` in points.csv says why\n"
    frame = pd.read_csv("traces_out/tiny/points.csv")
    assert list(frame.columns) == [
        "parallel.tensor", "parallel.pipeline", "policies.schedule", "error",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("step_time_s", "step_time", "study.yaml:8: objective: no scalar of the summary has this"),
        ("step_time_s", "time_share", "(got time_share); it has parts: time_share."),
        (
            "[fits]",
            "[fit]",
            "study.yaml:9: constraints.0: no scalar of the summary has this name (got",
        ),
        ("[fits]", "[mfus > 0.5]", "did you mean 'mfu'?"),
        ("step_time_s", "{maximise: hfus}", "did you mean 'hfu'?"),
        ("step_time_s", "compute_by_kind.gem", "did you mean 'compute_by_kind.gemm'?"),
        ("parallel.tensor", "parallel.tensr", "did you mean 'parallel.tensor'?"),
        ("[1f1b, gpipe]", "[]", "axes.policies.schedule: has no values"),
    ],
)
def test_mistakes_end_with_two(study_file: Path, cli: Cli, old: str, new: str, said: str) -> None:
    study_file.write_text(study_file.read_text().replace(old, new))
    answer = cli("sweep", study_file)
    assert answer.code == 2
    assert said in answer.err
    assert "Traceback" not in answer.err
    assert not Path("traces_out/tiny").exists()
    assert cli("sweep", "tiny.yaml").err.startswith("error: tiny.yaml:1: is a scenario, not a")
    assert cli("study.yaml").err.startswith("error: study.yaml:1: is a study, not a scenario")


def test_a_scalar_that_some_points_do_not_have(study_file: Path, cli: Cli) -> None:
    text = study_file.read_text()
    study_file.write_text(text.replace("step_time_s", "communication.tp.exposed_s"))
    said = cli("sweep", study_file, "--jobs", "1")
    assert said.code == 0, said.err
    frame = pd.read_csv("traces_out/tiny/points.csv")
    played = frame[frame.error.isna()]
    missing = played["communication.tp.exposed_s"].isna()
    assert missing.tolist() == (played["parallel.tensor"] == 1).tolist()
    assert "smallest communication.tp.exposed_s" in said.out


def test_conditions_that_keep_nothing(study_file: Path, cli: Cli) -> None:
    study_file.write_text(
        "study: s\nbase: tiny.yaml\naxes: {parallel.tensor: [1, 2], parallel.pipeline: [1, 2]}\n"
        "zip: [parallel.tensor, parallel.pipeline]\n"
        "when: {parallel.tensor: 1, parallel.pipeline: 2}\n"
    )
    said = cli("sweep", study_file)
    assert said.code == 2
    assert "when: keeps none of the 2 points" in said.err


def test_in_python_it_is_a_frame(study_file: Path) -> None:
    frame = desim.sweep(study_file)
    assert isinstance(frame, pd.DataFrame)
    assert len(frame) == 18
    assert (frame.error == "").sum() == 12
    assert not Path("traces_out").exists()
    desim.sweep(study_file, out="kept", jobs=2)
    resumed = desim.sweep(study_file, out="kept", resume=True)
    pd.testing.assert_frame_equal(resumed, frame)
    mapping = {
        "study": "m",
        "base": "tiny.yaml",
        "set": {"policies.recompute": "full"},
        "axes": {"parallel.tensor": [1, 2]},
    }
    short = desim.sweep(mapping)
    assert short.step_time_s.tolist() == [
        frame[(frame["parallel.tensor"] == t) & (frame["parallel.pipeline"] == 1)]
        .step_time_s.iloc[0]
        for t in (1, 2)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("start", "without"),
    [
        ("import desim.api, desim.cli", ["desim.study", "pandas"]),
        ("import desim.cli; desim.cli.main(['list', 'workloads'])", ["desim.engine", "simpy"]),
    ],
)
def test_start_up_does_not_pay_for_more_than_is_asked(start: str, without: list[str]) -> None:
    code = f"import sys; {start}; sys.exit(any(name in sys.modules for name in {without}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_scalars_of_a_summary() -> None:
    summary = {
        "name": "n", "simulate_wall_s": 1.0, "fits": True, "a": {"b": {"c": 1}},
        "x_bytes": {"0": 1.0, "1": 3.0}, "list": [1],
    }  # fmt: skip
    assert scalars(summary) == {
        "fits": True, "a.b.c": 1, "x_bytes.max": 3.0, "x_bytes.0": 1.0, "x_bytes.1": 3.0,
    }  # fmt: skip
    assert json.loads(json.dumps(scalars(summary))) == scalars(summary)
