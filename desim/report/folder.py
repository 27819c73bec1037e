"""The folder that a run's results go to."""

from __future__ import annotations

import os
from pathlib import Path

from desim.errors import Mistake, SpecError

RESULTS = "traces_out"


def default_folder(name: str) -> Path:
    """Return where the results of a scenario of this name go when nothing else is said."""
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
    return Path(RESULTS) / (safe.strip(".") or "run")


def results_folder(out: str | None, name: str) -> Path:
    """Return the folder that `--out` names, or the default one where it is left out.

    Raises SpecError where it cannot be written, before any time is spent; creates nothing.
    """
    if out is not None and not out.strip():
        raise SpecError([Mistake("--out", "must name a folder", repr(out))])
    folder = default_folder(name) if out is None else Path(out)
    _require_writable(folder)
    return folder


def _require_writable(folder: Path) -> None:
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise SpecError([Mistake("--out", "must be a folder", str(folder), f"{place} is a file")])
    if not os.access(place, os.W_OK | os.X_OK):
        rule = "the results folder cannot be written"
        raise SpecError([Mistake("--out", rule, str(folder), f"no permission in {place}")])


def left_from_before(folder: Path, names: tuple[str, ...], written: list[Path]) -> list[str]:
    """Return which of `names` stand in `folder` from an earlier run, not from this one."""
    fresh = {path.name for path in written}
    return [name for name in names if name not in fresh and (folder / name).exists()]
