"""Runs under comparison, and the table of them that terminal and page share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from desim.analyze.difference import category_seconds
from desim.report import palette

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from desim.analyze.difference import Difference

_COST = "cost_per_trillion_tokens"
_GIB = 2.0**30
_SMALLEST_SHARE = 0.0005
_SMALLEST_PATH_SHARE = 0.005
_LONG_S = 100.0
_MOST_ERRORS = 3


@dataclass(frozen=True, slots=True)
class Compared:
    """One of the runs: what is set in it, its summary, and how it differs from the first.

    `error_points` is the model's own error in such a difference, `error_of` says of what.
    """

    name: str
    setting: Mapping[str, Any]
    summary: Mapping[str, Any]
    difference: Difference
    capacity_bytes: float
    error_points: float = 0.0
    error_of: str = ""
    notes: tuple[str, ...] = ()
    remark: str = ""

    @property
    def step_time_s(self) -> float:
        """Seconds of a step."""
        return float(self.summary["step_time_s"])

    @property
    def peak_bytes(self) -> float:
        """The largest peak of allocated memory of any stage."""
        return max(float(size) for size in self.summary["peak_memory_bytes"].values())

    @property
    def within_error(self) -> bool:
        """Whether the step differs by no more than the model may be wrong by."""
        return 100 * abs(self.difference.share) <= self.error_points


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: a text for each run, and its difference to the first run's."""

    title: str
    values: list[str]
    differences: list[str]
    bad: list[bool] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Block:
    """Lines of the table under one heading."""

    title: str
    rows: list[Row]


def table(runs: Sequence[Compared]) -> list[Block]:
    """Return the table: headline, where the time went, what is on the critical path."""
    return [
        Block("", list(_headline(runs))),
        Block(f"where the time went ({_unit(runs).name}, mean of all GPUs)", list(_times(runs))),
        Block("critical path (% of it)", list(_path(runs))),
    ]


def _headline(runs: Sequence[Compared]) -> Iterator[Row]:
    unit = _unit(runs)
    yield unit.row(f"step time ({unit.name})", [run.step_time_s for run in runs])
    change = [_signed(100 * run.difference.share, 1) + " %" for run in runs[1:]]
    marks = ["within error" if run.within_error else "" for run in runs[1:]]
    yield Row("  change", ["", *change], ["", *marks])
    if all(run.summary.get("mfu") is not None for run in runs):
        yield _numbers("MFU (%)", [100 * float(run.summary["mfu"]) for run in runs], 1)
    if all(run.summary.get(_COST) is not None for run in runs):
        yield _numbers("cost per 1e12 tokens", [float(run.summary[_COST]) for run in runs], 0)
    yield _numbers("peak memory (GiB)", [run.peak_bytes / _GIB for run in runs], 1)
    fits = [bool(run.summary["fits"]) for run in runs]
    words = ["yes" if fit else "NO" for fit in fits]
    yield Row("fits", words, [""] * len(runs), [not fit for fit in fits])


def _times(runs: Sequence[Compared]) -> Iterator[Row]:
    unit = _unit(runs)
    times = [category_seconds(run.summary) for run in runs]
    whole = [run.step_time_s for run in runs]
    rest = [0.0] * len(runs)
    for category in palette.CATEGORIES:
        values = [one.get(category, 0.0) for one in times]
        if all(v < _SMALLEST_SHARE * w for v, w in zip(values, whole, strict=True)):
            rest = [a + b for a, b in zip(rest, values, strict=True)]
            continue
        yield unit.row("  " + palette.words(category), values)
    if any(round(value / unit.seconds, unit.digits) for value in rest):
        yield unit.row("  all others", rest)
    yield unit.row("  sum", whole)


@dataclass(frozen=True, slots=True)
class _Unit:
    """How times are written: in what, and with how many digits after the point."""

    name: str
    seconds: float
    digits: int

    def row(self, title: str, values_s: Sequence[float]) -> Row:
        """Return a line of the table for times in seconds."""
        return _numbers(title, [value / self.seconds for value in values_s], self.digits)


def _unit(runs: Sequence[Compared]) -> _Unit:
    """Return milliseconds with four figures of the shortest step, or seconds for long ones."""
    if max(run.step_time_s for run in runs) >= _LONG_S:
        return _Unit("s", 1.0, 2)
    shortest_s = min(run.step_time_s for run in runs)
    return _Unit("ms", 1e-3, 1 if shortest_s >= 0.1 else 2 if shortest_s >= 0.01 else 3)


def _path(runs: Sequence[Compared]) -> Iterator[Row]:
    shares = [run.summary["critical_path_share"] for run in runs]
    for category in palette.CATEGORIES:
        values = [float(share.get(category, 0.0)) for share in shares]
        if max(values) >= _SMALLEST_PATH_SHARE:
            yield _numbers("  " + palette.words(category), [100 * value for value in values], 1)


def _numbers(title: str, values: Sequence[float], digits: int) -> Row:
    differences = [_signed(value - values[0], digits) for value in values]
    return Row(title, [f"{value:,.{digits}f}" for value in values], ["", *differences[1:]])


def _signed(value: float, digits: int) -> str:
    """Return a number with its sign; what rounds to nothing has none."""
    text = f"{value:+,.{digits}f}"
    return text if any(c in "123456789" for c in text) else f"{0:.{digits}f}"


def verdict(run: Compared, first: Compared) -> str:
    """Return in one sentence how a run's step differs from the first's, and the largest reason."""
    share = run.difference.share
    if abs(run.difference.step_time_s) < 1e-9:
        return f"as fast as {first.name}"
    pace = "slower" if share > 0 else "faster"
    words = f"{abs(100 * share):.1f} % {pace} than {first.name} ({_ms(run.difference.step_time_s)})"
    if run.within_error:
        words += f", within model error ({run.error_points:.1f} points for {run.error_of})"
    return f"{words}, mostly {reason(run, first)}"


def warnings(runs: Sequence[Compared]) -> list[str]:
    """Return notes and warnings with whose they are; what is said of all runs stands once."""
    said: dict[str, list[str]] = {}
    for run in runs:
        for text in (*run.notes, *run.summary.get("warnings", ())):
            said.setdefault(str(text), []).append(run.name)
    return [
        text if len(names) == len(runs) else f"{', '.join(names)}: {text}"
        for text, names in said.items()
    ]


def model_errors(runs: Sequence[Compared]) -> list[str]:
    """Return how far differences may be off, the largest first, what is said of several once."""
    ordered = sorted(runs[1:], key=lambda run: -run.error_points)
    said = [f"{run.error_points:.1f} points for {run.error_of}" for run in ordered if run.error_of]
    distinct = list(dict.fromkeys(said))
    more = len(distinct) - _MOST_ERRORS
    return distinct[:_MOST_ERRORS] + (["less for others"] if more > 0 else [])


def reason(run: Compared, first: Compared) -> str:
    """Return the category that changed most in the direction of the step, and what it went with."""
    total_s = run.difference.step_time_s
    sign = 1.0 if total_s > 0 else -1.0
    ordered = sorted(run.difference.by_category.items(), key=lambda item: -sign * item[1])
    (largest, seconds), (against, lost) = ordered[0], ordered[-1]
    detail = _detail(largest, seconds)(run.summary, first.summary)
    also = f", {detail}" if detail else ""
    words = f"{_more(seconds)} {palette.words(largest)} ({_ms(seconds)}{also})"
    if -sign * lost >= 0.2 * abs(total_s):
        words += f"; against it {_more(lost)} {palette.words(against)} ({_ms(lost)})"
    return words


def _detail(category: str, seconds: float) -> Callable[[Mapping[str, Any], Mapping[str, Any]], str]:
    """Return what can say more of a change in a category."""
    if category in ("compute", "optimizer"):
        return lambda now, before: _kernels(now, before, seconds)
    if category.startswith("exposed_"):
        lane = category.removeprefix("exposed_")
        return lambda now, before: _hidden(now, before, lane, seconds)
    return lambda now, before: ""


def _kernels(now: Mapping[str, Any], before: Mapping[str, Any], seconds: float) -> str:
    """Return the kind of kernels that changed most."""
    kinds = {
        kind: now["compute_by_kind"].get(kind, 0.0) - before["compute_by_kind"].get(kind, 0.0)
        for kind in (*before["compute_by_kind"], *now["compute_by_kind"])
    }
    kind = max(kinds, key=lambda name: kinds[name] * (1 if seconds > 0 else -1), default="")
    return f"{kind.replace('_', ' ')} {_ms(kinds[kind])}" if kind else ""


def _hidden(now: Mapping[str, Any], before: Mapping[str, Any], lane: str, seconds: float) -> str:
    """Return whether there is less of the communication, or more of it under compute."""
    total = now["communication"].get(lane, {}).get("total_s", 0.0)
    change = total - before["communication"].get(lane, {}).get("total_s", 0.0)
    if change * seconds > 0 and abs(change) >= 0.5 * abs(seconds):
        return f"with what is hidden {_ms(change)}"
    return "less of it is hidden" if seconds > 0 else "more of it is hidden"


def _more(seconds: float) -> str:
    return "more" if seconds > 0 else "less"


def _ms(seconds: float) -> str:
    size = abs(1e3 * seconds)
    return _signed(1e3 * seconds, 1 if size >= 10 else 2 if size >= 1 else 3) + " ms"
