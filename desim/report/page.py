"""The report page: one HTML file that needs nothing else."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from desim.analyze.breakdown import breakdown
from desim.analyze.links import measured_window_ps
from desim.record import PS_PER_S
from desim.report import palette
from desim.report.assets import resource, warning_boxes, write_page
from desim.report.cards import Card, cards, footer, subtitle
from desim.report.figures import link_figure, ranked_figure, time_share_figure
from desim.report.memory import memory_figures
from desim.report.timeline import packed_timeline

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from desim.record import Record

_KERNEL_COLOUR = "#2f6db3"


def write_report(
    record: Record, summary: Mapping[str, Any], scenario_yaml: str, path: Path | str
) -> None:
    """Write report.html: headline, figures and the scenario, readable without a network.

    `summary` holds the keys of summary.json; `stage_time_share` and `compute_by_kind` are taken
    from the record where it lacks them.
    """
    parts = {
        "cards": "".join(map(card_html, cards(summary, record))),
        "warnings": warning_boxes(summary.get("warnings", ())),
        "categories": category_words(summary["time_share"]),
        "configuration": html.escape(scenario_yaml),
        "timeline_tools": resource("timeline_tools.html"),
        "footer": html.escape(footer(summary)),
    }
    write_page(
        path,
        "page.html",
        parts,
        title=str(summary.get("name", "desim run")),
        subtitle=subtitle(summary),
        styles=("page.css",),
        code=("common.js", "timeline.js", "page.js"),
        data=_data(record, summary),
    )


def card_html(card: Card) -> str:
    """Return a card as the pages show it."""
    bad = " bad" if card.bad else ""
    value, unit, what, more = map(html.escape, (card.value, card.unit, card.what, card.more))
    return (
        f'<div class="card{bad}"><div class="what">{what}</div>'
        f'<div class="value">{value} <span class="unit">{unit}</span></div>'
        f'<div class="more">{more}</div></div>'
    )


def category_words(shares: Mapping[str, float]) -> str:
    """Return what the categories mean that took any time, as markup."""
    taken = [category for category, share in shares.items() if share > 0]
    meanings = {palette.words(c): palette.CATEGORIES[c].meaning for c in taken}
    if any(category.startswith("exposed_") for category in taken):
        meanings["exposed"] = palette.EXPOSED_MEANING
    return " ".join(
        f"<b>{html.escape(words)}</b>: {html.escape(meaning)}."
        for words, meaning in meanings.items()
        if meaning
    )


def _data(record: Record, summary: Mapping[str, Any]) -> dict[str, Any]:
    stages, kinds = summary.get("stage_time_share"), summary.get("compute_by_kind")
    if stages is None or kinds is None:
        measured = breakdown(record)
        stages, kinds = measured.stage_time_share, measured.compute_by_kind
    step_time_s = float(summary["step_time_s"])
    begin, finish = measured_window_ps(record)
    return {
        "origin_s": begin / PS_PER_S,
        "step_s": (finish - begin) / PS_PER_S,
        "time_share": time_share_figure(summary["time_share"], stages, step_time_s),
        "timeline": packed_timeline(record),
        "memory": memory_figures(record),
        "links": link_figure(record),
        "critical_path": ranked_figure(_critical(summary.get("critical_path", ())), step_time_s),
        "kernels": ranked_figure(
            [(kind.replace("_", " "), time_s, _KERNEL_COLOUR) for kind, time_s in kinds.items()],
            step_time_s,
        ),
    }


def _critical(path: Iterable[Mapping[str, Any]]) -> list[tuple[str, float, str]]:
    """Return the parts of the critical path as bars; parts of the same name are added up."""
    bars: dict[tuple[str, str], float] = {}
    for part in path:
        what, category = str(part["what"]), str(part["category"])
        shown = palette.words(category)
        words = what if what.lower() == shown else f"{what} ({shown})"
        bars[words, palette.colour(category)] = bars.get(
            (words, palette.colour(category)), 0.0
        ) + float(part["seconds"])
    return [(words, seconds, colour) for (words, colour), seconds in bars.items()]
