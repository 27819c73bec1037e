"""Scores of step times: by tier, family, GPU, precision, parallelism and schedule."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from desim.validate import groups, memory_score
from desim.validate.measurements import TIERS, measured_step_s
from desim.validate.score import (
    Scored,
    grouped,
    medians_of_repeats,
    spread_of_repeats,
    summary,
)
from desim.validate.sweeps import correlations, line_summary, micro_batch_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from desim.validate.measurements import Measurement
    from desim.validate.play import Played

_NOTHING = "nothing was measured: neither step time nor tokens per second"


def score(
    rows: Sequence[Measurement], played: Sequence[Played]
) -> tuple[dict[str, Any], dict[str, tuple[float, float]]]:
    """Score the played ones of a file's rows.

    Returns the report, and by id what was compared: measured and simulated step time in seconds.
    """
    measured, reasons = _measured(rows)
    scored: dict[str, Scored] = {}
    for one in played:
        name, prediction = one.row.id, one.outcome.prediction
        if name not in measured:
            reasons.setdefault(name, _NOTHING)
        elif prediction is None or prediction.step_time_s is None:
            reasons[name] = one.outcome.reason
        else:
            simulated_s = prediction.step_time_s
            scored[name] = Scored(name, one.row.family, measured[name], simulated_s)
    report: dict[str, Any] = {}
    for tier in TIERS:
        members = [one for one in played if one.row.tier == tier]
        report[tier] = _tier(members, [scored[m.row.id] for m in members if m.row.id in scored])
    report["peak_memory"] = memory_score.beside_step_times(played)
    report["noise"] = _noise(rows, measured)
    report["unscored"] = [
        {"id": one.row.id, "tier": one.row.tier, "reason": reasons[one.row.id]}
        for one in played
        if one.row.id not in scored
    ]
    return report, {name: (one.measured, one.simulated) for name, one in scored.items()}


def _measured(rows: Iterable[Measurement]) -> tuple[dict[str, float], dict[str, str]]:
    """What each row is compared with, in seconds, and why some cannot be."""
    values, reasons = [], {}
    for row in rows:
        try:
            value = measured_step_s(row)
        except ValueError as error:
            reasons[row.id] = str(error)
            continue
        if value is not None:
            values.append((row.id, row.cells.get("repeat_of", "").strip(), value))
    return medians_of_repeats(values), reasons


def _noise(rows: Iterable[Measurement], measured: Mapping[str, float]) -> dict[str, Any]:
    """How far measurements of one configuration lie apart, by family."""
    families: dict[str, list[tuple[str, float]]] = {}
    for row in rows:
        tag = row.cells.get("repeat_of", "").strip()
        value = measured_step_s(row) if tag and row.id in measured else None
        if value is not None:
            families.setdefault(row.family, []).append((tag, value))
    found = {}
    for family, values in sorted(families.items()):
        spreads = spread_of_repeats(values)
        if spreads:
            mean = sum(spreads) / len(spreads)
            found[family] = {"repeated": len(spreads), "mean": mean, "largest": max(spreads)}
    return found


def _tier(played: Sequence[Played], scored: Sequence[Scored]) -> dict[str, Any]:
    """Sum up the rows of one tier, over all and in groups."""
    names = [one.row.id for one in played]
    by_id = {one.row.id: one for one in played}
    rows = {name: one.row for name, one in by_id.items()}
    found = summary(len(names), scored)
    found["by_family"] = grouped(names, scored, lambda name: rows[name].family)
    found["by_gpu"] = grouped(names, scored, lambda name: groups.gpu(rows[name]))
    found["by_precision"] = grouped(names, scored, lambda name: groups.precision(rows[name]))
    for what, label in groups.OF_SCENARIO.items():
        kinds = {n: label(p.scenario) if p.scenario else "" for n, p in by_id.items()}
        told = [name for name in names if kinds[name]]
        found[f"by_{what}"] = grouped(told, scored, kinds.__getitem__)
    found["rank_correlation"] = correlations(rows, scored)
    lines = micro_batch_lines(rows, scored)
    found["micro_batches"] = line_summary(lines)
    return found


def reasons_with_counts(unscored: Iterable[Mapping[str, str]]) -> list[tuple[str, list[str]]]:
    """Return each reason with the ids it holds for, the commonest first."""
    counts = Counter(entry["reason"] for entry in unscored)
    ids: dict[str, list[str]] = {reason: [] for reason in counts}
    for entry in unscored:
        ids[entry["reason"]].append(entry["id"])
    return [(reason, ids[reason]) for reason, _ in counts.most_common()]
