"""A comparison as text for a terminal."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from desim.validate.measurements import TIERS
from desim.validate.time_score import reasons_with_counts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from desim.validate.readings import Readings
    from desim.validate.results import Comparison

WIDTH = 100
_NAME = 30
_GIB = 2.0**30
_SHOWN_IDS = 4
_GROUPS = ("family", "gpu", "precision", "parallelism", "schedule", "recompute")
_HEAD = f"  {'':<{_NAME}}{'rows':>6}{'scored':>8}{'MAPE':>10}{'median':>10}{'p90':>10}{'bias':>10}"


def render(comparison: Comparison, readings: Readings) -> str:
    """Return the comparison as plain text of at most 100 columns, what matters most first."""
    blocks = _memory_blocks if comparison.of_memory else _time_blocks
    lines = [line for block in blocks(comparison, readings) for line in ("", *block)]
    lines += ["", *_unscored(comparison.report["unscored"])]
    for text in comparison.report.get("not_read", ()):
        lines += textwrap.wrap(f"not read: {text}", WIDTH, subsequent_indent=" " * 8)
    lines += textwrap.wrap(f"assumed where rows are silent: {comparison.assumptions}", WIDTH)
    return "\n".join(line.rstrip() for line in lines).strip("\n") + "\n"


def _time_blocks(comparison: Comparison, readings: Readings) -> Iterator[list[str]]:
    report = comparison.report
    for tier in TIERS:
        found = report[tier]
        if not found["rows"]:
            continue
        yield [f"tier {tier}: step time, simulated / measured - 1", _HEAD, _line("all", found)]
        families = len(_scored_families(found))
        yield [
            f"mean over {families} {'family' if families == 1 else 'families'}, each counted once: "
            f"MAPE {percent(found['family_mape']).strip()}"
        ]
        for what in _GROUPS:
            if found[f"by_{what}"]:
                yield list(_group(f"by {what}", found[f"by_{what}"]))
        if found["scored"]:
            yield list(_worst(comparison, readings, found["worst"], _seconds))
            yield list(_ranks(found["rank_correlation"]))
        if found["micro_batches"]["lines"]:
            yield list(_lines(found["micro_batches"]))
    if report["noise"]:
        yield list(_noise(report["noise"]))
    if report["peak_memory"]["rows"]:
        peak = report["peak_memory"]
        yield ["peak memory that the same rows print", _HEAD, _line("all", peak)]
        yield list(_group("by family", peak["by_family"]))


def _memory_blocks(comparison: Comparison, readings: Readings) -> Iterator[list[str]]:
    for key in ("allocated", "reserved"):
        found = comparison.report[key]
        yield [
            f"peak memory, {key}: simulated / measured - 1",
            _HEAD,
            _line("all", found),
            _line("own runs", found["own_runs"]),
        ]
        if found["worst"]:
            show = _gib if key == "allocated" else None
            yield list(_worst(comparison, readings, found["worst"], show))


def _scored_families(found: Mapping[str, Any]) -> list[str]:
    return [name for name, family in found["by_family"].items() if family["scored"]]


def percent(value: float | None, sign: bool = False) -> str:
    """Return a fraction as percent, a dash where there is none."""
    if value is None:
        return "-"
    return f"{100 * value:+.1f} %" if sign else f"{100 * value:.1f} %"


def _line(name: str, found: Mapping[str, Any]) -> str:
    numbers = "".join(f"{percent(found[key]):>10}" for key in ("mape", "median", "p90"))
    counts = f"{found['rows']:>6}{found['scored']:>8}"
    return f"  {name[:_NAME]:<{_NAME}}{counts}{numbers}{percent(found['bias'], sign=True):>10}"


def _group(title: str, members: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield title
    yield from (_line(name, found) for name, found in members.items())


def _seconds(value: float) -> str:
    return f"{value:.4g} s"


def _gib(value: float) -> str:
    return f"{value / _GIB:.2f} GiB"


def _worst(comparison: Comparison, readings: Readings, rows: Any, show: Any) -> Iterator[str]:
    """Yield the worst rows, each with what is known about it."""
    families = {one.row.id: one.row.family for one in comparison.rows}
    yield "worst rows"
    for entry in rows:
        name = entry["id"]
        text = f"  {percent(entry['error'], sign=True):>9}  {name}"
        if show is not None and name in comparison.compared:
            measured, simulated = comparison.compared[name]
            text += f" ({families[name]}): measured {show(measured)}, simulated {show(simulated)}"
        yield from textwrap.wrap(text, WIDTH, subsequent_indent=" " * 13, break_long_words=False)
        reading = readings.of(name, families[name])
        if reading:
            indent = " " * 13
            yield from textwrap.wrap(
                reading, WIDTH, initial_indent=indent, subsequent_indent=indent
            )


def _ranks(families: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield "rank correlation (Spearman): of step times; of time per sample inside sweeps"
    for name, found in families.items():
        whole, within = (_plain(found[key]) for key in ("step_time", "within"))
        sweeps = f"{found['sweeps']} sweeps of {found['rows_in_sweeps']} rows"
        yield f"  {name[:_NAME]:<{_NAME}}{found['rows']:>6}{whole:>8}{within:>8}   {sweeps}"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield "slope and intercept over micro-batches (intercept: share of the shortest step)"
    heads = ("lines", "slope", "bias", "intercept", "bias")
    yield f"  {'':<{_NAME}}" + "".join(f"{head:>10}" for head in heads)
    for name, part in {"all": found, **found["by_family"]}.items():
        slope, intercept = part["slope"], part["intercept"]
        numbers = [
            str(part["lines"]),
            percent(slope["mape"]),
            percent(slope["bias"], sign=True),
            percent(intercept["mape"]),
            percent(intercept["bias"], sign=True),
        ]
        yield f"  {name[:_NAME]:<{_NAME}}" + "".join(f"{text:>10}" for text in numbers)


def _noise(families: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield "noise: spread of measurements of one configuration, (largest - smallest) / median"
    for name, found in families.items():
        mean, largest = percent(found["mean"]), percent(found["largest"])
        spread = f"mean {mean:>7}  largest {largest:>7}"
        yield f"  {name[:_NAME]:<{_NAME}}{found['repeated']:>6} {spread}"


def _unscored(entries: list[dict[str, str]]) -> Iterator[str]:
    """Yield the reasons for which rows are not scored, the commonest first."""
    if not entries:
        yield "every row is scored"
        return
    yield f"not scored: {len(entries)}"
    for reason, ids in reasons_with_counts(entries):
        some = ", ".join(ids[:_SHOWN_IDS]) + (", ..." if len(ids) > _SHOWN_IDS else "")
        text = f"{len(ids):>4}  {' '.join(reason.split())}: {some}"
        yield from textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent=" " * 8)
