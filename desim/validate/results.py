"""The whole comparison of a file: rows chosen, played, scored and grouped."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from desim.errors import DesimError, Mistake, SpecError
from desim.validate import memory_score, time_score
from desim.validate.assumptions import load_assumptions
from desim.validate.ignored import not_read
from desim.validate.measurements import read_measurements
from desim.validate.play import Played, play_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from desim.validate.measurements import Measurement, Measurements

_NAME = "assumptions.yaml"
_PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Request:
    """What to compare: a file, which of its rows, and how.

    `tier` (None: both) and `only` (a pattern of ids) choose rows. `assumptions` is the file that
    fills what rows leave open; None: the one beside the CSV, else desim's own.
    """

    file: Path
    tier: str | None = None
    only: str | None = None
    assumptions: Path | None = None
    processes: int = 1


@dataclass(frozen=True, slots=True)
class Comparison:
    """A finished comparison: its rows in the order of the file, and all that sums them up.

    `report` is what `--json` writes; fractions, seconds and bytes. `compared` holds what each row
    was scored on, by id: measured (or its repeats' median) and simulated.
    """

    request: Request
    assumptions: Path
    of_memory: bool
    rows: tuple[Played, ...]
    compared: Mapping[str, tuple[float, float]]
    report: dict[str, Any]


def compare(
    request: Request,
    begin: Callable[[str, float], None] = lambda what, work: None,
    done: Callable[[float], None] = lambda work: None,
) -> Comparison:
    """Play the rows of a file and score them; raises SpecError where it cannot be read.

    A row that cannot be simulated is listed with the reason. `begin` and `done` are told how far
    it is (see `play_rows`).
    """
    measurements = read_measurements(request.file)
    chosen = _choose(measurements, request)
    assumptions = find_assumptions(request)
    try:
        rules = load_assumptions(assumptions)
    except DesimError as error:
        raise SpecError([Mistake("", str(error))]) from None
    played = play_rows(
        chosen,
        assumptions,
        of_memory=measurements.of_memory,
        processes=request.processes,
        begin=begin,
        done=done,
    )
    score = memory_score.score if measurements.of_memory else time_score.score
    report, compared = score(measurements.rows, played)
    if not measurements.of_memory:
        report["not_read"] = not_read(played, rules)
    return Comparison(request, assumptions, measurements.of_memory, tuple(played), compared, report)


def _choose(measurements: Measurements, request: Request) -> list[Measurement]:
    rows = [row for row in measurements.rows if request.tier in (None, row.tier)]
    if request.only is not None:
        rows = [row for row in rows if fnmatchcase(row.id, request.only)]
    if rows:
        return rows
    if request.only is not None:
        some = ", ".join(row.id for row in measurements.rows[:3])
        mistake = Mistake("--only", "no row's id matches", repr(request.only), f"ids: {some}, ...")
    else:
        held = " and ".join(sorted({row.tier for row in measurements.rows}))
        mistake = Mistake("--tier", "no row is of this tier", str(request.tier), f"there is {held}")
    raise SpecError([mistake])


def find_assumptions(request: Request) -> Path:
    """Return the file of assumptions: the one named, else beside the CSV, else desim's own.

    Raises SpecError where the one named does not exist.
    """
    if request.assumptions is not None:
        if not request.assumptions.is_file():
            named = str(request.assumptions)
            raise SpecError([Mistake("--assumptions", "there is no such file", named)])
        return request.assumptions
    own = (_PACKAGE / "catalogue" / "validation" / _NAME, _PACKAGE.parent / "validation" / _NAME)
    for file in (request.file.parent / _NAME, *own):
        if file.is_file():
            return file
    raise AssertionError("the package carries its assumptions")
