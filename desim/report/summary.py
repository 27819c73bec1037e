"""The terminal summary of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from desim.analyze.breakdown import breakdown
from desim.analyze.links import busiest
from desim.report import palette
from desim.report.cards import cards, footer, subtitle

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from desim.record import Record

_WIDTH = 100
_BAR = 40
_MAX_STAGES = 8
_MAX_CATEGORIES = 8
_SMALLEST_SHARE = 0.0005
_GIB = 2.0**30


def render(summary: Mapping[str, Any], record: Record, notes: Sequence[str] = ()) -> str:
    """Return the summary as plain ASCII text of at most 100 columns, ending with the `notes`.

    `summary` holds the keys of summary.json; `stage_time_share` and `communication` are taken
    from the record where it lacks them.
    """
    stages, lanes = summary.get("stage_time_share"), summary.get("communication")
    if stages is None or lanes is None:
        measured = breakdown(record)
        stages, lanes = measured.stage_time_share, measured.communication
    step_time_s = float(summary["step_time_s"])
    lines = [
        *_headline(summary, record),
        *_bars(summary["time_share"], step_time_s),
        *_stages(stages, summary["peak_memory_bytes"]),
        *_communication(lanes, step_time_s),
        *_critical_path(summary.get("critical_path", ()), step_time_s),
        *_links(record),
        "",
        footer(summary),
        *notes,
    ]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _headline(summary: Mapping[str, Any], record: Record) -> Iterator[str]:
    name = summary.get("name", "")
    yield f"{name}: {subtitle(summary)}" if name else subtitle(summary)
    for card in cards(summary, record):
        more = f"   {card.more}" if card.more else ""
        loud = "   <-- DOES NOT FIT" if card.bad else ""
        yield f"  {card.what:<28}{card.value:>10} {card.unit:<10}{more}{loud}"


def _bars(shares: Mapping[str, float], step_time_s: float) -> Iterator[str]:
    """Yield a bar for every category that took any time, drawn to the largest one."""
    yield ""
    yield "where the time went (mean of all GPUs)"
    largest = max(shares.values(), default=0.0) or 1.0
    ordered = sorted(shares, key=lambda category: -shares[category])
    shown = [c for c in ordered[:_MAX_CATEGORIES] if shares[c] >= _SMALLEST_SHARE]
    rows = {palette.words(category): shares[category] for category in shares if category in shown}
    rest = sum(share for category, share in shares.items() if category not in shown)
    if rest >= _SMALLEST_SHARE:
        rows["all others"] = rest
    for words, share in rows.items():
        bar = "#" * max(1, round(_BAR * share / largest))
        seconds = f"{share * step_time_s * 1e3:,.1f} ms"
        yield f"  {words:<18}{100 * share:5.1f} % {seconds:>13}  {bar}"


def _stages(stages: Mapping[str, Mapping[str, float]], peaks: Mapping[str, float]) -> Iterator[str]:
    """Yield a table with a line for each stage; of many stages the first and the last ones."""
    if len(stages) < 2:
        return
    yield ""
    titles = " ".join(f"{title:>9}" for title in ("compute", "exposed", "waiting", "bubble"))
    yield f"  stage {titles} {'peak memory':>14}"
    names = list(stages)
    hidden = len(names) - _MAX_STAGES
    if hidden > 0:
        names = names[: _MAX_STAGES // 2] + names[-_MAX_STAGES // 2 :]
    for number, name in enumerate(names):
        if hidden > 0 and number == _MAX_STAGES // 2:
            yield f"  {'...':>5} ({hidden} more)"
        share = stages[name]
        columns = [
            share["compute"] + share["contention"] + share["optimizer"],
            sum(value for category, value in share.items() if category.startswith("exposed_")),
            share["waiting"],
            share["bubble"],
        ]
        table = " ".join(f"{100 * value:7.1f} %" for value in columns)
        memory = f"{float(peaks[name]) / _GIB:10.1f} GiB" if name in peaks else ""
        yield f"  {name:>5} {table} {memory}"


def _communication(lanes: Mapping[str, Mapping[str, float]], step_time_s: float) -> Iterator[str]:
    if not lanes:
        return
    parts = [
        f"{lane} {1e3 * times['total_s']:,.1f} ms ({100 * times['exposed_s'] / step_time_s:.1f} %"
        " exposed)"
        for lane, times in lanes.items()
    ]
    yield ""
    yield from _wrapped("communication   ", parts)


def _critical_path(path: Iterable[Mapping[str, Any]], step_time_s: float) -> Iterator[str]:
    largest = sorted(path, key=lambda part: -float(part["seconds"]))[:4]
    parts = [
        f"{part['what']} {100 * float(part['seconds']) / step_time_s:.1f} %" for part in largest
    ]
    if parts:
        yield from _wrapped("critical path   ", parts)


def _links(record: Record) -> Iterator[str]:
    parts = [
        f"{use.link.name} {100 * use.mean:.1f} % (peak {100 * use.peak:.0f} %)"
        for use in busiest(record)[:3]
    ]
    if parts:
        yield from _wrapped("busiest links   ", parts)


def _wrapped(head: str, parts: Sequence[str]) -> Iterator[str]:
    """Yield parts joined by commas, on as many lines as they need."""
    line = head
    for number, part in enumerate(parts):
        text = part + (", " if number < len(parts) - 1 else "")
        if len(line) + len(text.rstrip()) > _WIDTH and line.strip() and line != head:
            yield line.rstrip()
            line = " " * len(head)
        line += text
    yield line.rstrip()
