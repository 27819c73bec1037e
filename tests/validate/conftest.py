"""A file of a few published rows with assumptions of its own, and the command line."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.cli.conftest import ROOT, cli

__all__ = ["cli"]

IDS = (
    "llmf-h10080gb-1b-s2048-g8-mb14",
    "llmf-h10080gb-1b-s1024-g8-mb18",
    "zb-t4-1.5B-1F1B-m24",
    "zb-t4-1.5B-1F1B-m32",
)
ASSUMED = """\
rules:
  - set: {cluster.system: dgx_h100_ndr400, workload.model.gated: false}
  - when: {family: llm-foundry}
    set: {parallel.zero: 3, policies.recompute: full}
  - when: {family: zero-bubble}
    fill: {vocab: "51200"}
    stages: {ends_fewer: 1}
"""


def real_rows() -> list[dict[str, str]]:
    with (ROOT / "validation" / "step_time.csv").open(newline="") as stream:
        rows = {row["id"]: row for row in csv.DictReader(stream)}
    return [rows[name] for name in IDS]


def write(file: Path, rows: list[dict[str, str]]) -> Path:
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The rows in an empty working directory, beside what is assumed of them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "assumptions.yaml").write_text(ASSUMED)
    return write(tmp_path / "mine.csv", real_rows())
