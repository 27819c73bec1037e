"""The command `sweep`: options in, files and text out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from desim.pool import processes_of
from desim.report.folder import results_folder
from desim.report.points import Points
from desim.report.progress import Bar
from desim.report.sweep_page import write_sweep_page
from desim.report.sweep_text import sweep_text
from desim.study.sweep.journal import JOURNAL
from desim.study.sweep.run import Where, require_points, run_study
from desim.study.sweep.study_file import read_study
from desim.study.sweep.table import write_tables

if TYPE_CHECKING:
    from collections.abc import Mapping

    from desim.study.sweep.run import Swept

PAGE = "points.html"


class CannotWriteError(OSError):
    """A disk that takes no more; `kept` says what is kept and how to go on."""

    def __init__(self, error: OSError, kept: str) -> None:
        place = error.filename2 or error.filename
        super().__init__(error.errno, error.strerror or str(error), place)
        self.kept = kept


class Interrupted(KeyboardInterrupt):  # noqa: N818 - it is no error
    """Ctrl-C in a sweep; the message says what is kept and how to go on."""


def sweep_command(options: Mapping[str, Any], *, show: bool) -> tuple[str, bool]:
    """Play a study as the command line asks for it.

    Returns the text to print and whether any point could be played.

    `options` are those of `sweep_parser` by name, `show` whether to draw a bar. Raises SpecError
    for what is wrong with the study, CannotWriteError and Interrupted.
    """
    study = read_study(options["study"])
    folder = results_folder(options["out"], study.name)
    where = Where(
        processes_of(options["jobs"]), options["cluster"], Path(folder), options["resume"]
    )
    require_points(study, where, yes=options["yes"])
    began_s = time.monotonic()
    try:
        swept = run_study(study, where, Bar(show=show))
        points = points_of(swept)
        written = write_tables(points.rows, points.axes, folder)
        write_sweep_page(points, folder / PAGE)
    except KeyboardInterrupt:
        raise Interrupted(_kept_message(folder)) from None
    except OSError as error:
        raise CannotWriteError(error, _kept_message(folder)) from None
    took_s = time.monotonic() - began_s
    closing = _closing(swept, where, took_s, [*written, PAGE, JOURNAL])
    return sweep_text(points) + "\n" + closing, len(points.failed) < len(points.rows)


def _kept_message(folder: Path) -> str:
    """Say how many finished points a folder holds, and how to go on from them."""
    if not folder.exists():
        return "no point is finished"
    file = folder / JOURNAL
    count = max(file.read_bytes().count(b"\n") - 1, 0) if file.is_file() else 0
    points = "1 finished point is" if count == 1 else f"{count:,} finished points are"
    return f"{points} kept in {folder}; the same command with --resume goes on"


def points_of(swept: Swept) -> Points:
    """Return what a sweep came to as the reports read it."""
    study, rows = swept.study, swept.rows
    return Points(
        name=study.name,
        axes=tuple(axis.path for axis in study.axes),
        rows=rows,
        objective=study.objective.name,
        maximise=study.objective.maximise,
        constraints=tuple(map(str, study.constraints)),
        costs=[study.objective.cost(row) for row in rows],
        meets=[
            not row["error"] and all(constraint.met(row) for constraint in study.constraints)
            for row in rows
        ],
    )


def _closing(swept: Swept, where: Where, took_s: float, written: list[str]) -> str:
    processes = "1 process" if where.processes == 1 else f"{where.processes} processes"
    on = processes if where.cluster is None else f"the cluster {where.cluster}"
    before = f", {swept.kept:,} were there before" if swept.kept else ""
    return (
        f"{_played(swept.played)} played in {took_s:.0f} s on {on}{before}\n"
        f"written to {where.folder}: {', '.join(written)}\n"
    )


def _played(count: int) -> str:
    return "1 scenario" if count == 1 else f"{count:,} scenarios"
