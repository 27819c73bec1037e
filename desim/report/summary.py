"""The terminal summary of a run."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from desim.analyze.breakdown import breakdown
from desim.analyze.memory import needed_by_stage
from desim.report import palette
from desim.report.cards import cards, footer, subtitle
from desim.report.links import busiest_of_each_kind, link_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from desim.record import Record

_WIDTH = 100
_BAR = 40
_MAX_STAGES = 8
_MAX_CATEGORIES = 8
_MAX_LINKS = 4
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
    capacity_bytes = float(record.details.get("device_memory_bytes", 0.0))
    lines = [
        *_headline(summary, record),
        *_bars(summary["time_share"], step_time_s),
        *_stages(stages, summary, capacity_bytes),
        *_beside(list(_communication(lanes, step_time_s)), list(_links(record))),
        *_critical_path(summary, step_time_s),
        "",
        footer(summary),
        *_documents(summary),
        *_sources(summary.get("kernel_time_share", {})),
        *notes,
    ]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _headline(summary: Mapping[str, Any], record: Record) -> Iterator[str]:
    name = summary.get("name", "")
    yield f"{name}: {subtitle(summary)}" if name else subtitle(summary)
    for card in cards(summary, record):
        more = card.more.replace("does not fit", "DOES NOT FIT") if card.bad else card.more
        yield f"  {card.what:<28}{card.value:>10} {card.unit:<10}   {more}"


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


def _stages(
    stages: Mapping[str, Mapping[str, float]], summary: Mapping[str, Any], capacity_bytes: float
) -> Iterator[str]:
    """Yield a table with a line for each stage; of many stages the first and the last ones."""
    if len(stages) < 2:
        return
    yield ""
    peaks, needs = summary["peak_memory_bytes"], needed_by_stage(summary)
    titles = " ".join(
        f"{title:>9}" for title in ("compute", "exposed", "waiting", "bubble", "rest")
    )
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
            share["compute"],
            sum(value for category, value in share.items() if category.startswith("exposed_")),
            share["waiting"],
            share["bubble"],
        ]
        columns.append(max(1.0 - sum(columns), 0.0))
        table = " ".join(f"{100 * value:7.1f} %" for value in columns)
        peak = float(peaks.get(name, 0.0))
        memory = f"{peak / _GIB:10.1f} GiB" if name in peaks else ""
        over = "  DOES NOT FIT" if 0 < capacity_bytes < needs.get(name, 0.0) else ""
        yield f"  {name:>5} {table} {memory}{over}"


def _communication(lanes: Mapping[str, Mapping[str, float]], step_time_s: float) -> Iterator[str]:
    """Yield a table with a line for each lane: its time in all, and the exposed share of a step."""
    if lanes:
        yield f"{'communication':<14}{'in all':>10}  {'exposed':>8}"
    for lane, times in lanes.items():
        total = f"{1e3 * times['total_s']:,.1f} ms"
        exposed = f"{100 * times['exposed_s'] / step_time_s:.1f} %"
        yield f"  {lane:<9}{total:>13}  {exposed:>8}"


def _links(record: Record) -> Iterator[str]:
    """Yield a table with the busiest link of each kind."""
    rows = busiest_of_each_kind(link_rows(record))[:_MAX_LINKS]
    if rows:
        yield f"{'busiest links':<16}{'mean':>8}{'peak':>8}"
    for row in rows:
        title = row.title
        name = f"{title.what} {title.way}".rstrip()[:14]
        where = f"{title.where} (x{title.count})".strip()
        yield f"  {name:<14}{100 * row.mean:6.1f} %{100 * row.peak:6.0f} %  {where}"


def _beside(left: Sequence[str], right: Sequence[str]) -> Iterator[str]:
    """Yield two tables beside each other."""
    if not left and not right:
        return
    yield ""
    width = max(map(len, left), default=-4) + 4
    for one, other in zip_longest(left, right, fillvalue=""):
        yield f"{one:<{width}}{other}"


def _critical_path(summary: Mapping[str, Any], step_time_s: float) -> Iterator[str]:
    """Yield the shares of the critical path, and the tasks that it spends most time in."""
    path: Iterable[Mapping[str, Any]] = summary.get("critical_path", ())
    largest = sorted(path, key=lambda part: -float(part["seconds"]))[:4]
    if not largest:
        return
    shares: Mapping[str, float] = summary.get("critical_path_share", {})
    parts = [
        f"{palette.words(category)} {100 * share:.1f} %"
        for category, share in sorted(shares.items(), key=lambda item: -item[1])
        if share >= 10 * _SMALLEST_SHARE
    ]
    yield ""
    yield from _wrapped("critical path   ", parts)
    tasks = [
        f"{part['what']} {100 * float(part['seconds']) / step_time_s:.1f} %" for part in largest
    ]
    yield from _wrapped("  largest parts ", tasks)


def _documents(summary: Mapping[str, Any]) -> Iterator[str]:
    """Yield what MFU counts of attention where sequences are packed of documents."""
    if "attention_share" in summary:
        share = 100 * float(summary["attention_share"])
        yield f"documents: {share:.1f} % of a sequence's attention is inside one; MFU counts these"


def _sources(shares: Mapping[str, float]) -> Iterator[str]:
    """Yield how much of the kernels' time a table of measurements gave, where there is one."""
    if shares.get("modelled", 1.0) < 1.0:
        parts = [f"{100 * share:.0f} % {source}" for source, share in shares.items()]
        yield f"kernel times: {', '.join(parts)}"


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
