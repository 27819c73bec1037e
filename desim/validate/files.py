"""Files of a comparison: JSON, a table with a line per row, a scenario per row."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from typing import TYPE_CHECKING

from desim.errors import Mistake, SpecError
from desim.spec.dump import dump_scenario
from desim.validate import groups
from desim.validate.measurements import ALLOCATED_GIB, STEP_S, TOKENS_PER_S

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from desim.validate.play import Played
    from desim.validate.results import Comparison

COLUMNS = (
    "id", "tier", "family", "model", "gpu", "num_gpus", "precision", "parallelism", "schedule",
    "recompute", "measured", "simulated", "error", "reason",
)  # fmt: skip


def write_json(comparison: Comparison, file: Path) -> None:
    """Write the report as JSON."""
    replace_text(file, json.dumps(comparison.report, indent=1) + "\n")


def write_table(comparison: Comparison, file: Path) -> None:
    """Write a CSV with a line per row.

    `measured` and `simulated` are step times in seconds (in a file of memory peaks in bytes),
    `error` is a fraction, `reason` says why a row is not scored.
    """
    reasons = {entry["id"]: entry["reason"] for entry in comparison.report["unscored"]}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in comparison.rows:
        compared = comparison.compared.get(one.row.id)
        writer.writerow([*_told(one), *_numbers(compared), reasons.get(one.row.id, "")])
    replace_text(file, out.getvalue())


def _told(one: Played) -> Iterator[str]:
    cells, scenario = one.row.cells, one.scenario
    yield from (one.row.id, one.row.tier, one.row.family)
    yield from (cells.get(name, "") for name in ("model", "gpu", "num_gpus", "precision"))
    yield from (label(scenario) if scenario else "" for label in groups.OF_SCENARIO.values())


def _numbers(compared: tuple[float, float] | None) -> tuple[str, str, str]:
    if compared is None:
        return "", "", ""
    measured, simulated = compared
    return f"{measured:.6g}", f"{simulated:.6g}", f"{simulated / measured - 1.0:.5f}"


def write_scenarios(comparison: Comparison, folder: Path) -> int:
    """Write a scenario that anyone can run for each row that became one; return how many."""
    folder.mkdir(parents=True, exist_ok=True)
    names = _file_names(comparison)
    for one in comparison.rows:
        if one.scenario is not None:
            text = "".join(f"# {line}\n" for line in _comment(one)) + dump_scenario(one.scenario)
            replace_text(folder / names[one.row.id], text)
    return sum(one.scenario is not None for one in comparison.rows)


def _file_names(comparison: Comparison) -> dict[str, str]:
    """A file name for each row, from its id; ids that come to the same name are numbered."""
    names: dict[str, str] = {}
    taken: dict[str, int] = {}
    for one in comparison.rows:
        stem = re.sub(r"[^\w.-]+", "_", one.row.id).strip(".") or "row"
        count = taken[stem.lower()] = taken.get(stem.lower(), 0) + 1
        names[one.row.id] = f"{stem}.yaml" if count == 1 else f"{stem}_{count}.yaml"
    return names


def _comment(one: Played) -> Iterator[str]:
    cells = one.row.cells
    yield f"{one.row.id} ({one.row.family}, tier {one.row.tier})"
    if source := cells.get("source", ""):
        yield "source: " + " ".join(source.split())
    for column in (STEP_S, TOKENS_PER_S, ALLOCATED_GIB):
        if value := cells.get(column, "").strip():
            yield f"{column}: {value}"


def replace_text(file: Path, text: str) -> None:
    """Write a file, its folders with it, so that none is ever half there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.part")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, file)


def require_places(places: Mapping[str, Path | None]) -> None:
    """Raise SpecError where a file or folder to be written cannot be; options -> places."""
    mistakes = []
    for option, place in places.items():
        if place is None:
            continue
        wanted_folder = option == "--write-scenarios"
        if place.is_dir() and not wanted_folder:
            mistakes.append(Mistake(option, "is a folder, name a file in it", str(place)))
            continue
        above = place
        while not above.exists() and above != above.parent:
            above = above.parent
        if above.is_file() and (wanted_folder or above != place):
            mistakes.append(Mistake(option, "must be a folder", str(above)))
        elif not os.access(above if above.is_dir() else above.parent, os.W_OK | os.X_OK):
            mistakes.append(Mistake(option, "cannot be written: no permission", str(place)))
    if mistakes:
        raise SpecError(mistakes)
