"""Ctrl-C, and the progress line of runs that take more than a second."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import time
from pathlib import Path
from typing import IO

import pytest

from desim.report import results
from tests.cli.conftest import ROOT, Cli, command, files

#: Half a minute of work: every rank of a smaller job is played by itself.
LONG = (
    ROOT / "scenarios" / "llama70b_2048.yaml", "--set", "run.fold=false",
    "--set", "cluster.devices=512", "--set", "workload.global_batch=256", "--out", "here",
)  # fmt: skip


def start(folder: Path, stderr: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*LONG), cwd=folder, stdout=subprocess.PIPE, stderr=stderr, text=True
    )


def test_progress_on_a_terminal_and_interrupt(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = start(tmp_path, theirs)
    os.close(theirs)
    seen = b""
    while b"playing" not in seen:
        seen += os.read(ours, 1000)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    seen += os.read(ours, 1000)
    os.close(ours)
    assert process.returncode == 130
    assert out == ""
    assert b"\r\x1b[Kllama70b_2048: planning" in seen or b"\r\x1b[Kllama70b_2048: playing" in seen
    assert b"interrupted; no file was left half-written" in seen
    assert b"Traceback" not in seen
    assert files(tmp_path) == []


def test_no_progress_when_piped(tmp_path: Path) -> None:
    process = start(tmp_path, subprocess.PIPE)
    time.sleep(2.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert err == "\ndesim: interrupted; no file was left half-written\n"
    assert files(tmp_path) == []


def test_interrupted_while_writing(tiny: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files written before are whole, the old one stays, and nothing else is there."""

    def half(path: Path) -> None:
        def content(stream: IO[bytes]) -> None:
            stream.write(b"half of it")
            raise KeyboardInterrupt

        results.write_aside(path, content)

    monkeypatch.setattr(results, "write_report", lambda *arguments: half(arguments[-1]))
    Path("here").mkdir()
    Path("here/report.html").write_text("old")
    said = cli(tiny, "--out", "here")
    assert said.code == 130
    assert Path("here/report.html").read_text() == "old"
    assert not [name for name in files(Path("here")) if name.startswith(".")]
    assert cli("check", "here/scenario.resolved.yaml").code == 0
