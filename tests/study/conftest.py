"""A small study on disk: a tiny model with a few values varied."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import TINY, Cli, cli

__all__ = ["cli", "Cli"]

STUDY = """\
study: tiny
base: tiny.yaml
set: {policies.recompute: full}
axes:
  parallel.tensor: [1, 2, 3]
  parallel.pipeline: {from: 1, to: 4, factor: 2}
  policies.schedule: [1f1b, gpipe]
objective: step_time_s
constraints: [fits]
"""


@pytest.fixture
def study_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study of 18 points, 6 of which no mesh allows, in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY.replace("parallel: {tensor: 2, pipeline: 2}\n", ""))
    file = tmp_path / "study.yaml"
    file.write_text(STUDY)
    return file
