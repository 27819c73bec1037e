"""The same study on a Dask cluster: a real scheduler, two workers, one of which is killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.conftest import ROOT, Cli, command
from tests.study.test_sweep import journal, tables, wait_for_points

LOOPBACK = "127.0.0.1"


def test_without_distributed_it_says_what_to_install(
    study_file: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    said = cli("sweep", study_file, "--cluster", "tcp://127.0.0.1:8786")
    assert said.code == 2
    assert "--cluster: needs the package distributed, which is not installed" in said.err
    assert 'python -m pip install "desim[cluster]"' in said.err


def test_processes_or_a_cluster(study_file: Path, cli: Cli) -> None:
    assert cli("sweep", study_file, "--cluster", "tcp://x:1", "--jobs", "2").code == 2


@pytest.mark.slow
def test_no_scheduler_answers(study_file: Path, cli: Cli) -> None:
    pytest.importorskip("distributed")
    said = cli("sweep", study_file, "--cluster", f"tcp://{LOOPBACK}:1")
    assert said.code == 2
    assert "--cluster: no Dask scheduler answers" in said.err


def dask(part: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", f"distributed.cli.dask_{part}", *arguments, "--no-dashboard"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def cluster() -> Iterator[tuple[str, list[subprocess.Popen[str]]]]:
    """The address of a scheduler on this machine, and two workers of a process each."""
    scheduler = dask("scheduler", "--host", LOOPBACK, "--port", "0")
    workers: list[subprocess.Popen[str]] = []
    try:
        assert scheduler.stderr is not None
        found = None
        while found is None:
            found = re.search(rf"tcp://{LOOPBACK}:\d+", scheduler.stderr.readline())
        for _ in range(2):
            options = ("--nthreads", "1", "--no-nanny", "--host", LOOPBACK)
            workers.append(dask("worker", found[0], *options))
        yield found[0], workers
    finally:
        for process in (*workers, scheduler):
            process.kill()
            process.communicate(timeout=30)


@pytest.mark.slow
def test_a_killed_worker_of_a_cluster_costs_no_point(study_file: Path, cli: Cli) -> None:
    """Both workers play points, one is killed in the middle: the bytes are those of one machine."""
    pytest.importorskip("distributed")
    study_file.write_text(
        study_file.read_text().replace("axes:\n", "axes:\n  run.seed: {from: 1, to: 8, step: 1}\n")
    )
    assert cli("sweep", study_file, "--out", "here").code == 0
    with cluster() as (address, workers):
        process = subprocess.Popen(
            command("sweep", study_file, "--out", "there", "--cluster", address),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        wait_for_points("there", 5)
        workers[0].send_signal(signal.SIGKILL)
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        assert workers[0].wait(timeout=10) == -signal.SIGKILL
        assert workers[1].poll() is None
    assert f"on the cluster {address}" in out
    assert tables("there") == tables("here")
    assert sorted(journal("there")) == sorted(journal("here"))
