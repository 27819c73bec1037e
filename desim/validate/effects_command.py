"""The option `validate --effects`: pairs of rows played and compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from desim.errors import Mistake, SpecError
from desim.pool import processes_of
from desim.report.progress import Bar
from desim.validate.effects import effect_of, report
from desim.validate.effects_file import read_effects
from desim.validate.effects_page import page, text
from desim.validate.files import replace_text, require_places
from desim.validate.measurements import read_measurements
from desim.validate.pairs import all_rows, find_pairs
from desim.validate.play import play_rows
from desim.validate.results import Request, find_assumptions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from desim.validate.pairs import Pair
    from desim.validate.play import Played

_NOT_WITH = ("tier", "only", "table", "write_scenarios", "report")


def validate_effects(options: Mapping[str, Any], *, show: bool, command: Sequence[str]) -> str:
    """Play the pairs that `effects.yaml` declares, write the page, return the text to print.

    `options` are those of the command line by name, `command` its words as the page shows them,
    `show` whether to draw a bar. Raises SpecError for what is wrong with a file or an option and
    OSError where something cannot be written.
    """
    _refuse_others(options)
    file, out = Path(options["file"]), Path(options["effects"])
    json_file = Path(options["json"]) if options["json"] else None
    require_places({"--effects": out, "--json": json_file})
    assumptions = Path(options["assumptions"]) if options["assumptions"] else None
    assumed = find_assumptions(Request(file=file, assumptions=assumptions))
    declared = read_effects(file)
    pairs = find_pairs(all_rows(read_measurements(file).rows, declared), declared)
    played = _play(pairs, assumed, processes_of(options["jobs"]), Bar(show=show))
    known = {p.row.id: p.outcome.prediction for p in played if p.outcome.prediction is not None}
    found = [effect_of(pair, declared.noise[pair.policy.family], known) for pair in pairs]
    effects = [one for one in found if one is not None]
    told = report(effects, list(_unscored(played)))
    replace_text(out, page(effects, told, declared, command))
    written = [str(out)]
    if json_file is not None:
        replace_text(json_file, json.dumps(told, indent=1) + "\n")
        written.append(str(json_file))
    return text(told) + f"written: {', '.join(written)}\n"


def _play(pairs: Sequence[Pair], assumed: Path, count: int, bar: Bar) -> list[Played]:
    """Play every row of the pairs once."""
    sides = [side for pair in pairs for side in (pair.reference, pair.changed)]
    rows = {row.id: row for side in sides for row in side}
    try:
        return play_rows(
            list(rows.values()),
            assumed,
            of_memory=False,
            processes=count,
            begin=bar.begin,
            done=bar.done,
        )
    finally:
        bar.clear()


def _unscored(played: Sequence[Played]) -> Iterator[str]:
    for one in played:
        if one.outcome.prediction is None:
            yield f"{one.row.id}: {' '.join(one.outcome.reason.split())}"


def _refuse_others(options: Mapping[str, Any]) -> None:
    """Raise SpecError for options that say which rows or what else to write."""
    rule = "cannot be had with --effects, which chooses the rows by effects.yaml"
    mistakes = [
        Mistake("--" + name.replace("_", "-"), rule, str(options[name]))
        for name in _NOT_WITH
        if options[name] is not None
    ]
    if mistakes:
        raise SpecError(mistakes)
