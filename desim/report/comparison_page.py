"""The page of a comparison: one HTML file that needs nothing else."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from desim.report.assets import resource, warning_boxes, write_page
from desim.report.cards import subtitle
from desim.report.compared import model_errors, table, verdict, warnings
from desim.report.comparison_figures import difference_figure, memory_figure, time_figure
from desim.report.page import category_words
from desim.units import show

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from desim.report.compared import Compared, Row


@dataclass(frozen=True, slots=True)
class Drawn:
    """The timeline of one run: what `packed_timeline` returned, the step's begin and length."""

    timeline: Mapping[str, Any]
    origin_s: float
    step_s: float


def write_comparison_page(
    title: str,
    runs: Sequence[Compared],
    drawn: Sequence[Drawn],
    settings: Sequence[Mapping[str, Any]],
    path: Path | str,
) -> None:
    """Write the page; `settings` holds for each run its values at the paths that differ."""
    shares = [run.summary["time_share"] for run in runs]
    parts = {
        "verdicts": "".join(_verdict(run, runs[0]) for run in runs),
        "table": _table(runs),
        "error": html.escape(_error(runs)),
        "warnings": warning_boxes(warnings(runs)),
        "categories": category_words(
            {c: max(one.get(c, 0.0) for one in shares) for c in shares[0]}
        ),
        "configuration": _settings(runs, settings),
        "timeline_tools": resource("timeline_tools.html"),
        "footer": html.escape(_footer(runs)),
    }
    write_page(
        path,
        "compare.html",
        parts,
        title=title,
        subtitle=_subtitle(runs),
        styles=("page.css", "compare.css"),
        code=("common.js", "timeline.js", "compare.js"),
        data=_data(runs, drawn),
    )


def _subtitle(runs: Sequence[Compared]) -> str:
    """Return the job's size where it is the same for all."""
    sizes = list(dict.fromkeys(subtitle(run.summary) for run in runs))
    return sizes[0] if len(sizes) == 1 else f"{len(runs)} variants; the first: {sizes[0]}"


def _verdict(run: Compared, first: Compared) -> str:
    said = "; ".join(filter(None, [verdict(run, first) if run is not first else "", run.remark]))
    return f"<li><b>{html.escape(run.name)}</b>: {html.escape(said)}</li>" if said else ""


def _error(runs: Sequence[Compared]) -> str:
    """Say what the model's own error is for what was changed."""
    said = model_errors(runs)
    return f"Model error in the change of the step time: {'; '.join(said)}." if said else ""


def _table(runs: Sequence[Compared]) -> str:
    heads = "".join(f'<th class="run">{html.escape(run.name)}</th>' for run in runs)
    lines = [f"<table><thead><tr><th></th>{heads}</tr></thead><tbody>"]
    for block in table(runs):
        if block.title:
            title = html.escape(block.title)
            lines.append(f'<tr class="block"><td colspan="{len(runs) + 1}">{title}</td></tr>')
        lines += [_line(row) for row in block.rows]
    return "".join([*lines, "</tbody></table>"])


def _line(row: Row) -> str:
    cells = [f"<td>{html.escape(row.title.strip())}</td>"]
    bad = row.bad or [False] * len(row.values)
    for value, change, wrong in zip(row.values, row.differences, bad, strict=True):
        more = f'<span class="by">{html.escape(change)}</span>' if change else ""
        mark = ' class="bad"' if wrong else ""
        cells.append(f"<td{mark}>{html.escape(value)}{more}</td>")
    return f"<tr>{''.join(cells)}</tr>"


def _settings(runs: Sequence[Compared], settings: Sequence[Mapping[str, Any]]) -> str:
    heads = "".join(f'<th class="run">{html.escape(run.name)}</th>' for run in runs)
    lines = [f'<table class="settings"><thead><tr><th></th>{heads}</tr></thead><tbody>']
    for path in settings[0]:
        cells = "".join(f"<td>{html.escape(_value(one[path]))}</td>" for one in settings)
        lines.append(f"<tr><td>{html.escape(path)}</td>{cells}</tr>")
    return "".join([*lines, "</tbody></table>"])


def _value(value: Any) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value).replace('"', "")


def _footer(runs: Sequence[Compared]) -> str:
    tasks = sum(int(run.summary["tasks"]) for run in runs)
    events = sum(int(run.summary["events"]) for run in runs)
    wall_s = sum(float(run.summary["simulate_wall_s"]) for run in runs)
    return f"desim simulated {tasks:,} tasks with {events:,} events in {wall_s:.2f} s"


def _data(runs: Sequence[Compared], drawn: Sequence[Drawn]) -> dict[str, Any]:
    return {
        "time": time_figure(runs),
        "difference": difference_figure(runs),
        "memory": memory_figure(runs),
        "runs": [
            {
                "name": html.escape(run.name),
                "note": f"{show(run.step_time_s, 's')}" + _change(run),
                "stages": len(run.summary["peak_memory_bytes"]),
                "timeline": one.timeline,
                "origin_s": one.origin_s,
                "step_s": one.step_s,
            }
            for run, one in zip(runs, drawn, strict=True)
        ],
    }


def _change(run: Compared) -> str:
    share = 100 * run.difference.share
    return f" ({share:+.1f} %)" if abs(share) >= 0.05 else ""
