"""The files of a run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from desim.export.chrome import write_trace
from desim.export.files import write_aside
from desim.export.frames import write_parquet
from desim.report.page import write_report

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from desim.record import Record

SUMMARY = "summary.json"
RESOLVED = "scenario.resolved.yaml"
TRACE = "trace.json.gz"
SPANS = "record.parquet"
REPORT = "report.html"


def write_results(
    folder: Path,
    record: Record,
    summary: Mapping[str, Any],
    resolved_yaml: str,
    *,
    trace: bool,
    report: bool,
) -> list[Path]:
    """Write a run's files into `folder`, each complete or not at all, and return their paths.

    `trace` covers the timeline in both forms (Chrome trace and Parquet), `report` the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_aside(folder / SUMMARY, (json.dumps(summary, indent=2) + "\n").encode())
    write_aside(folder / RESOLVED, resolved_yaml.encode())
    written = [folder / SUMMARY, folder / RESOLVED]
    if trace:
        write_trace(record, folder / TRACE)
        write_parquet(record, folder / SPANS)
        written += [folder / TRACE, folder / SPANS]
    if report:
        write_report(record, summary, resolved_yaml, folder / REPORT)
        written.append(folder / REPORT)
    return written
