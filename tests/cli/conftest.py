"""A tiny scenario on disk and ways to call the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from desim.cli import main

ROOT = Path(__file__).resolve().parents[2]

TINY = """\
name: tiny
workload:
  model: {family: transformer, name: tiny, source: made up, layers: 4, hidden: 1024, heads: 8,
          kv_heads: 8, head_dim: 128, ffn: 4096, gated: true, vocab: 1024}
  sequence_length: 1024
  global_batch: 8
  micro_batch: 1
cluster:
  system: dgx_h100_ndr400
  devices: 8
parallel: {tensor: 2, pipeline: 2}
"""


@dataclass(frozen=True)
class Said:
    """What a call of the command line left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Said]


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scenario file in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "tiny.yaml"
    file.write_text(TINY)
    return file


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Call the command line in this process."""

    def call(*arguments: str | Path) -> Said:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return call


def command(*arguments: str | Path) -> list[str]:
    """The command line as a process of its own."""
    return [sys.executable, "-m", "desim", *(str(argument) for argument in arguments)]


def shell(*arguments: str | Path, cwd: Path) -> Said:
    """Run the command line as a user does."""
    done = subprocess.run(
        command(*arguments), cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )
    return Said(done.returncode, done.stdout, done.stderr)


def files(folder: Path) -> list[str]:
    """Names in a folder, hidden ones too."""
    return sorted(path.name for path in folder.iterdir())
