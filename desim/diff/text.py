"""A measured step beside a simulated one, as text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

from desim.diff.side_by_side import Row, SideBySide

WIDTH = 100
_NAME = 34
_LARGEST = 5
_UNKNOWN = 8
_TIMES = 10.0
_SPREAD = 1.1
_MATTERS = 0.001  # of the step: what is smaller is not said to differ


def render(found: SideBySide) -> str:
    """Return the comparison as plain text of at most 100 columns."""
    blocks = (
        _head(found),
        _table("a step (ms)", [found.step, *found.parts]),
        _table("kernels by kind (ms)", found.kernels, counted=True),
        _table("collectives and host copies (ms)", found.collectives, counted=True),
        _largest(found),
        _unknown(found),
    )
    lines = [line.rstrip() for block in blocks for line in (*block, "")]
    return "\n".join(lines).rstrip("\n") + "\n"


def _head(found: SideBySide) -> Iterator[str]:
    trace, simulated = found.trace, found.simulated
    rank = "a rank" if trace.rank is None else f"rank {trace.rank}"
    of = f" of {trace.ranks:,}" if trace.ranks else ""
    numbers = [number for number, _ in trace.steps]
    steps = f"step {numbers[0]}" if len(numbers) == 1 else f"steps {numbers[0]} to {numbers[-1]}"
    like = "" if simulated.like_it == 1 else f", which stands for {simulated.like_it:,}"
    yield from _wrapped(
        f"measured {found.trace_file.name}: {rank}{of}, {steps}; "
        f"simulated {simulated.name}: rank {simulated.rank} of {simulated.devices:,}{like}"
    )
    if trace.ranks and trace.ranks != simulated.devices:
        yield f"note: the job has {trace.ranks:,} ranks, the results {simulated.devices:,}"
    shortest, longest = (pick(seconds for _, seconds in trace.steps) for pick in (min, max))
    if longest > _SPREAD * shortest:
        took = f"{1e3 * shortest:,.1f} to {1e3 * longest:,.1f} ms"
        yield f"note: steps took {took}; the median counts"
    if trace.launched_apart:
        yield f"note: {trace.launched_apart:,} kernels or copies are in no step and not counted"


def _table(title: str, rows: Iterable[Row], counted: bool = False) -> Iterator[str]:
    held = list(rows)
    if not held:
        return
    head = f"{title:<{_NAME}}{'measured':>12}{'simulated':>12}{'difference':>12}{'':>10}"
    yield head + (f"{'number':>10}{'simulated':>10}" if counted else "")
    for row in held:
        yield _line(row, counted)


def _line(row: Row, counted: bool) -> str:
    measured, simulated = row.measured.seconds, row.simulated.seconds
    share = _share(measured, simulated)
    apart_ms = round(1e3 * row.difference_s, 3) or 0.0  # no -0.000
    line = (
        f"  {row.name[: _NAME - 3]:<{_NAME - 2}}{1e3 * measured:>12.3f}{1e3 * simulated:>12.3f}"
        f"{apart_ms:>+12.3f}{share:>10}"
    )
    if counted:
        line += f"{row.measured.count:>10.0f}{row.simulated.count:>10.0f}"
    return line


def _share(measured_s: float, simulated_s: float) -> str:
    """The difference as a share of what was measured, or how many times that where it is large."""
    if not measured_s:
        return "-"
    ratio = simulated_s / measured_s
    percent = round(100 * (ratio - 1), 1) or 0.0
    return f"{percent:+.1f} %" if ratio < _TIMES else f"x {min(ratio, 99999):.0f}"


def _largest(found: SideBySide) -> Iterator[str]:
    floor_s = _MATTERS * found.step.measured.seconds
    rows = [row for row in found.largest if abs(row.difference_s) > floor_s][:_LARGEST]
    if not rows:
        yield "largest differences: none above 0.1 % of the step"
        return
    yield "largest differences (simulated less measured, share of the measured step)"
    for row in rows:
        share = 100 * row.difference_s / found.step.measured.seconds
        yield f"  {row.name:<{_NAME}}{1e3 * row.difference_s:>+12.3f} ms{share:>+8.1f} %"


def _unknown(found: SideBySide) -> Iterator[str]:
    entries = sorted(found.unknown.items(), key=lambda item: (-item[1].seconds, item[0]))
    if not entries:
        return
    yield "unknown kernels (no pattern of desim/diff/names.yaml fits)"
    for name, entry in entries[:_UNKNOWN]:
        short = name if len(name) <= 76 else f"{name[:73]}..."
        yield f"  {1e3 * entry.seconds:>10.3f} ms  {short}"
    if len(entries) > _UNKNOWN:
        yield f"  and {len(entries) - _UNKNOWN} more"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
