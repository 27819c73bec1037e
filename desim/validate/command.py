"""The command `validate`: options in, files and text out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from desim.pool import processes_of
from desim.report.progress import Bar
from desim.spec.text_file import shown
from desim.validate.files import require_places, write_json, write_scenarios, write_table
from desim.validate.page import write_page
from desim.validate.readings import read_readings
from desim.validate.results import Request, compare, find_assumptions
from desim.validate.text import render

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from desim.validate.results import Comparison

_WRITTEN = ("json", "table", "write_scenarios", "report")


def validate(options: Mapping[str, Any], *, show: bool, command: Sequence[str]) -> tuple[str, str]:
    """Compare a file with what desim says, write what was asked for, return the text to print.

    Where no row could be scored the second text says so, with the first row's reason; else it is
    empty.

    `options` are those of the command line by name, `command` its words as the page shows them,
    `show` whether to draw a bar. Raises SpecError for what is wrong with the file or an option and
    OSError where something cannot be written.
    """
    request = Request(
        file=Path(options["file"]),
        tier=options["tier"],
        only=options["only"],
        assumptions=Path(options["assumptions"]) if options["assumptions"] else None,
        processes=processes_of(options["jobs"]),
    )
    places = {name: _place(options[name]) for name in _WRITTEN}
    require_places({"--" + name.replace("_", "-"): place for name, place in places.items()})
    readings = read_readings(find_assumptions(request))
    bar = Bar(show=show)
    began_s = time.monotonic()
    try:
        comparison = compare(request, bar.begin, bar.done)
    finally:
        bar.clear()
    took_s = time.monotonic() - began_s
    written = _write(comparison, places)
    if places["report"] is not None:
        write_page(comparison, readings, command, places["report"])
        written.append(str(places["report"]))
    text = [render(comparison, readings).rstrip(), *_closing(comparison, took_s, written)]
    return "\n".join(text), _unscored(comparison)


def _unscored(comparison: Comparison) -> str:
    """Say that no row could be scored, if so: where a column is missing, every row lacks it."""
    if any(isinstance(part, dict) and part.get("scored") for part in comparison.report.values()):
        return ""
    rows, first = len(comparison.rows), comparison.report["unscored"][0]
    many = "its row" if rows == 1 else f"none of its {rows} rows"
    could = "could not" if rows == 1 else "could"
    reason = f"{first['id']}: {first['reason']}"
    return f"{shown(comparison.request.file)}: {many} {could} be scored; {reason}"


def _place(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _write(comparison: Comparison, places: Mapping[str, Path | None]) -> list[str]:
    """Write what was asked for and say what."""
    written = []
    json_file, table, folder = (places[name] for name in _WRITTEN[:3])
    if json_file is not None:
        write_json(comparison, json_file)
        written.append(str(json_file))
    if table is not None:
        write_table(comparison, table)
        written.append(str(table))
    if folder is not None:
        written.append(f"{write_scenarios(comparison, folder)} scenarios in {folder}")
    return written


def _closing(comparison: Comparison, took_s: float, written: Sequence[str]) -> list[str]:
    request = comparison.request
    several = "1 process" if request.processes == 1 else f"{request.processes} processes"
    rows = "1 row" if len(comparison.rows) == 1 else f"{len(comparison.rows)} rows"
    lines = [f"{rows} in {took_s:.0f} s on {several}"]
    if written:
        lines.append("written: " + ", ".join(written))
    return [*lines, ""]
