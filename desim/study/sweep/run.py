"""A sweep: every point of a study played once, finished points kept, one row a point."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from desim.errors import Mistake, SpecError
from desim.pool import Pool, processes_of
from desim.report.progress import Bar
from desim.study.sweep.cluster import Cluster
from desim.study.sweep.goal import unknown_name
from desim.study.sweep.journal import Finished, Journal
from desim.study.sweep.play import (
    PointSource,
    Prepared,
    hungry,
    lost,
    never,
    play_point,
    prepare,
    unread,
)
from desim.study.sweep.points import (
    MANY,
    Point,
    number_of_points,
    overrides_of,
    points,
    require_paths,
)
from desim.study.sweep.study_file import Study, read_study
from desim.study.sweep.table import frame_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

_EACH = 1.0  # work of a point, in a unit of its own


@dataclass(frozen=True, slots=True)
class Where:
    """Where points are played and kept: processes or a cluster, and a folder for the journal."""

    processes: int = 1
    cluster: str | None = None
    folder: Path | None = None
    resume: bool = False


@dataclass(slots=True)
class Swept:
    """What a sweep came to: a row a point, in the order of the study."""

    study: Study
    points: list[Point] = field(default_factory=list)
    finished: list[Finished] = field(default_factory=list)
    played: int = 0
    kept: int = 0
    """Points that the journal already had."""

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Axis paths, scalars and `error` of every point."""
        paths = [axis.path for axis in self.study.axes]
        return [
            dict(zip(paths, point.values, strict=True)) | done.scalars | {"error": done.error}
            for point, done in zip(self.points, self.finished, strict=True)
        ]


def sweep(
    study: str | Path | Mapping[str, Any],
    *,
    out: str | Path | None = None,
    jobs: int | None = None,
    cluster: str | None = None,
    resume: bool = False,
    yes: bool = False,
) -> pd.DataFrame:
    """Play every point of a study and return a frame with a row a point, in the study's order.

    Columns are the paths of the axes, the scalars of the summary and `error` (empty where there is
    none). `out` is a folder for the journal of finished points, from which `resume` goes on;
    without it nothing is written. `jobs` is a number of processes (all cores where left out),
    `cluster` the address of a Dask scheduler instead. Raises SpecError for what is wrong with the
    study.
    """
    read = read_study(study)
    folder = None if out is None else Path(out)
    where = Where(processes_of(jobs), cluster, folder, resume)
    require_points(read, where, yes=yes)
    swept = run_study(read, where, Bar(show=False))
    return frame_of(swept.rows, [axis.path for axis in read.axes])


def require_points(study: Study, where: Where, *, yes: bool) -> None:
    """Refuse a study with wrong paths, without points, or with very many that `yes` is not said to.

    The time that many would take is measured on the first.
    """
    require_paths(study)
    number = number_of_points(study)
    if number <= MANY or yes:
        return
    source = PointSource(study.base, overrides_of(study, next(points(study))))
    play_point(source)
    began_s = time.perf_counter()
    play_point(source)
    each_s = time.perf_counter() - began_s
    many = f"{number:,} points, more than {MANY:,}"
    if where.cluster is None:
        on = "1 process" if where.processes == 1 else f"{where.processes} processes"
        took = f"about {_spoken(number * each_s / where.processes)} on {on}"
    else:
        took = f"about {_spoken(number * each_s)} divided by the cluster's workers"
    rule = f"has {many}: {took} ({each_s:.2f} s for the first)"
    raise SpecError([Mistake("", rule, hint="--yes plays them all", file=study.file)])


def _spoken(seconds: float) -> str:
    for length, unit in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 1.5 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.0f} seconds"


def run_study(study: Study, where: Where, bar: Bar) -> Swept:
    """Play the points of a study that the journal does not have.

    Raises KeyboardInterrupt and OSError as they come; what had finished by then is in the journal.
    Where SpecError says what is wrong with the study, a journal without points is gone again.
    """
    swept = Swept(study, list(points(study)))
    journal = None
    if where.folder is not None:
        journal = Journal(where.folder, study.name, resume=where.resume)
    try:
        _play_points(swept, where, journal, bar)
    except SpecError:
        if journal is not None:
            journal.discard()
        raise
    finally:
        bar.clear()
        if journal is not None:
            journal.close()
    return swept


def _play_points(swept: Swept, where: Where, journal: Journal | None, bar: Bar) -> None:
    """Find the scenario of every point, play each once that is not known, and line them up."""
    study = swept.study
    sources = [PointSource(study.base, overrides_of(study, point)) for point in swept.points]
    bar.begin("reading points", len(sources) * _EACH)
    reading: Pool[PointSource, Prepared] = Pool(where.processes, prepare, unread, never)
    prepared = reading.map(sources, lambda _: _EACH, bar.done)
    known = dict(journal.found) if journal is not None else {}
    asked = {p.key: source for p, source in zip(prepared, sources, strict=True) if p.key}
    swept.kept = len(asked.keys() & known.keys())
    left = [(key, source) for key, source in asked.items() if key not in known]
    for finished in known.values():
        _require_goal(study, finished)

    def keep(number: int, finished: Finished) -> None:
        key = left[number][0]
        if not any(other.scalars for other in known.values()):
            _require_goal(study, finished)
        known[key] = finished
        if journal is not None and not finished.again:
            journal.add(key, finished)
        swept.played += 1

    bar.begin("playing points", len(left) * _EACH)
    _play([source for _, source in left], where, keep, bar)
    swept.finished = [known[p.key] if p.key else Finished({}, p.error) for p in prepared]


def _play(
    sources: list[PointSource], where: Where, keep: Callable[[int, Finished], None], bar: Bar
) -> None:
    """Play points where the study is to be played; `keep` is told of each as it ends."""
    if where.cluster is not None and sources:
        cluster = Cluster(where.cluster)

        def done(number: int, finished: Finished) -> None:
            keep(number, finished)
            bar.done(_EACH)

        try:
            cluster.play(sources, done)
        finally:
            cluster.close()
        return
    playing: Pool[PointSource, Finished] = Pool(where.processes, play_point, lost, hungry)
    playing.map(sources, lambda _: _EACH, bar.done, keep)


def _require_goal(study: Study, finished: Finished) -> None:
    """Refuse an objective or a constraint that the summary has no scalar for."""
    if not finished.scalars:
        return
    goals = [("objective", study.objective.name)]
    goals += [("constraints", constraint.name) for constraint in study.constraints]
    mistakes = []
    for where, name in goals:
        hint = unknown_name(name, finished.scalars)
        if hint:
            rule = "no scalar of the summary has this name"
            mistakes.append(Mistake(where, rule, name, hint, study.file))
    if mistakes:
        raise SpecError(mistakes)
