"""`compare`: play variants of a scenario and say what differs between them, and why."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from desim.analyze.difference import category_seconds, difference
from desim.errors import DeadlockError, SpecError
from desim.export.chrome import write_traces
from desim.export.files import write_aside
from desim.pool import processes_of
from desim.report.compared import Compared, verdict
from desim.report.comparison import render_comparison
from desim.report.comparison_page import write_comparison_page
from desim.spec.dump import dump_scenario
from desim.study.compare import model_error
from desim.study.compare.given import differences, given
from desim.study.compare.play import play_all, plays_of
from desim.study.compare.variants import named_mistakes
from desim.study.scalars import scalars

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import pandas as pd

    from desim.record import Record
    from desim.report.comparison_page import Drawn
    from desim.spec.scenario import Scenario
    from desim.study.compare.play import Outcome
    from desim.study.compare.variants import Source, Variant

PAGE, TRACE, NUMBERS = "compare.html", "trace.json.gz", "compare.json"
RESOLVED = "variant_{}.resolved.yaml"
_MOST_NAMES = 3


def _quiet(*_: object) -> None:
    """Tell nobody how far it is."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Variants that were played: the first is the reference of the others.

    `settings` are the values at all paths in which the scenarios differ, `drawn` and `records` what
    is drawn of each (none where nothing was to be drawn).
    """

    title: str
    scenarios: tuple[Scenario, ...]
    runs: tuple[Compared, ...]
    settings: tuple[dict[str, Any], ...]
    drawn: tuple[Drawn, ...] = ()
    records: tuple[Record, ...] = ()

    def render(self, notes: Sequence[str] = ()) -> str:
        """Return the text that the terminal shows."""
        return render_comparison(self.title, self.runs, notes)

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {"variants": [_as_json(run, self.runs[0]) for run in self.runs]}

    def write(self, folder: Path) -> list[Path]:
        """Write numbers, page and trace into `folder`, each file complete or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        numbers = (json.dumps(self.as_json(), indent=2) + "\n").encode()
        write_aside(folder / NUMBERS, numbers)
        named = [(run.name, record) for run, record in zip(self.runs, self.records, strict=True)]
        write_traces(named, folder / TRACE)
        page = folder / PAGE
        write_comparison_page(self.title, self.runs, self.drawn, self.settings, page)
        written = [folder / NUMBERS, folder / TRACE, page]
        for number, scenario in enumerate(self.scenarios, start=1):
            written.append(folder / RESOLVED.format(number))
            write_aside(written[-1], dump_scenario(scenario).encode())
        return written


def _as_json(run: Compared, first: Compared) -> dict[str, Any]:
    return {
        "name": run.name,
        "set": dict(run.setting),
        "summary": dict(run.summary),
        "difference": {
            "step_time_s": run.difference.step_time_s,
            "by_category": run.difference.by_category,
        },
        "verdict": "" if run is first else verdict(run, first),
        "model_error_points": run.error_points,
        "within_model_error": run is not first and run.within_error,
        "notes": list(run.notes),
        "remark": run.remark,
    }


def compare_variants(
    title: str,
    variants: Sequence[Variant],
    *,
    draw: bool = True,
    processes: int | None = None,
    begin: Callable[[str, float], None] = _quiet,
    done: Callable[[float], None] = _quiet,
) -> Comparison:
    """Play variants in processes and compare them with the first.

    `draw`: whether a page or a trace is to be written. `begin` and `done` are told how far it is.
    Raises SpecError where one cannot be run and DeadlockError where one cannot finish, by its name.
    """
    plays = plays_of([variant.scenario for variant in variants], draw=draw)
    outcomes = play_all(plays, processes_of() if processes is None else processes, begin, done)
    _require_played(variants, outcomes)
    known = model_error.families()
    runs = tuple(
        _compared(variant, outcome, variants[0], outcomes[0], known)
        for variant, outcome in zip(variants, outcomes, strict=True)
    )
    return Comparison(
        title,
        tuple(variant.scenario for variant in variants),
        runs,
        tuple(_all_settings(variants)),
        tuple(outcome.drawn for outcome in outcomes if outcome.drawn is not None),
        tuple(outcome.record for outcome in outcomes if outcome.record is not None),
    )


def _require_played(variants: Sequence[Variant], outcomes: Sequence[Outcome]) -> None:
    """Raise what kept variants from being played, by their names."""
    named = list(zip((variant.name for variant in variants), outcomes, strict=True))
    refused = {name: outcome.mistakes for name, outcome in named if outcome.mistakes}
    if refused:
        raise SpecError(named_mistakes(refused, len(variants)))
    stuck = [f"variant {name}: {outcome.deadlock}" for name, outcome in named if outcome.deadlock]
    if stuck:
        raise DeadlockError("\n".join(stuck))


def _compared(
    variant: Variant,
    outcome: Outcome,
    first: Variant,
    reference: Outcome,
    known: Sequence[model_error.Family],
) -> Compared:
    assert outcome.summary is not None
    assert reference.summary is not None
    changed = [path for path, value in variant.setting.items() if value != first.setting.get(path)]
    families = model_error.families_of(changed, known)
    return Compared(
        variant.name,
        variant.setting,
        outcome.summary,
        difference(reference.summary, outcome.summary),
        variant.scenario.cluster.system.device.memory_bytes,
        model_error.error_points(families),
        _named(families),
        (*variant.notes, *outcome.notes),
        variant.remark,
    )


def _named(families: Mapping[model_error.Family, Sequence[str]]) -> str:
    """Say what was changed, what may be most wrong first; beyond a few names, how many more."""
    ordered = sorted(families.items(), key=lambda item: -item[0].points)
    names = [family.path or _others(paths) for family, paths in ordered]
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _others(paths: Sequence[str]) -> str:
    """Say what was changed where the table of errors has no family for it."""
    return " and ".join(paths) if len(paths) <= 2 else f"{len(paths)} other fields"


def _all_settings(variants: Sequence[Variant]) -> list[dict[str, Any]]:
    """Return what is varied, and what else differs because of it."""
    differing = differences([variant.scenario for variant in variants])
    return [
        variant.setting | {p: value for p, value in more.items() if p not in variant.setting}
        for variant, more in zip(variants, differing, strict=True)
    ]


def compare(
    scenarios: Sequence[Source | Scenario], *, processes: int | None = None
) -> pd.DataFrame:
    """Play scenarios (or files, or mappings) and return a frame with a row for each.

    Columns: `name`; the paths in which the scenarios differ; the scalars of the summary, named as
    by `desim.sweep` (`peak_memory_bytes.max` is the largest of all stages); `CATEGORY_s`,
    seconds of the step by category; `difference_step_time_s` and `difference_CATEGORY_s`, how much
    more than in the first; `within_model_error`. All cores are used unless `processes` says
    otherwise.

    Raises SpecError with every mistake of each scenario.
    """
    import pandas as pd

    compared = compare_variants("", given(scenarios), draw=False, processes=processes)
    return pd.DataFrame([_row(run, run is compared.runs[0]) for run in compared.runs])


def _row(run: Compared, first: bool) -> dict[str, Any]:
    seconds = category_seconds(run.summary)
    return {
        "name": run.name,
        **run.setting,
        **scalars(run.summary),
        **{f"{category}_s": value for category, value in seconds.items()},
        "difference_step_time_s": run.difference.step_time_s,
        **{f"difference_{c}_s": value for c, value in run.difference.by_category.items()},
        "within_model_error": not first and run.within_error,
    }
