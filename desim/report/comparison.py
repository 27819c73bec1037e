"""A comparison as plain text for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from desim.report import palette
from desim.report.compared import table, verdict
from desim.report.wrap import wrapped

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from desim.report.compared import Block, Compared, Row

_TITLE, _FIRST, _OTHER = 20, 13, 22
_PER_BLOCK = 3  # runs beside the first one, so that a line has at most 100 columns


def render_comparison(title: str, runs: Sequence[Compared], notes: Sequence[str] = ()) -> str:
    """Return the comparison as ASCII text of at most 100 columns, ending with the `notes`."""
    lines = [title]
    numbered = not _names_fit(runs)
    if numbered:
        lines += [f"  {number}: {run.name}" for number, run in enumerate(runs, start=1)]
    blocks = table(runs)
    for first in range(1, len(runs), _PER_BLOCK):
        lines += ["", *_columns(blocks, runs, range(first, min(first + _PER_BLOCK, len(runs))))]
    lines.append("")
    for run in runs:
        lines += _said(run, runs[0])
    lines += notes
    text = "\n".join(line.rstrip() for line in lines) + "\n"
    return text.encode("ascii", "backslashreplace").decode()


def _names_fit(runs: Sequence[Compared]) -> bool:
    return len(runs[0].name) < _FIRST and all(len(run.name) < _OTHER for run in runs)


def _columns(blocks: Sequence[Block], runs: Sequence[Compared], shown: range) -> Iterator[str]:
    """Yield the table with the first run and some of the others."""
    fit = _names_fit(runs)
    heads = [run.name if fit else str(number) for number, run in enumerate(runs, start=1)]
    line = f"{'':{_TITLE}}{heads[0]:>{_FIRST}}"
    yield line + "".join(f"{heads[i]:>{_OTHER}}" for i in shown)
    for block in blocks:
        if block.title:
            yield block.title
        yield from (_line(row, shown) for row in block.rows)


def _line(row: Row, shown: range) -> str:
    line = f"{row.title:{_TITLE}}{row.values[0]:>{_FIRST}}"
    for i in shown:
        change = row.differences[i]
        own = _OTHER - max(9, len(change) + 1)
        line += f"{row.values[i]:>{own}}{change:>{_OTHER - own}}"
    return line


def _said(run: Compared, first: Compared) -> Iterator[str]:
    """Yield the verdict on a run, and what its critical path is made of."""
    if run is not first:
        yield from wrapped(f"{run.name}: ", verdict(run, first).split(" "), joint=" ")
    if run.remark:
        yield from wrapped("  " if run is not first else f"{run.name}: ", run.remark.split(), " ")
    shares = sorted(run.summary["critical_path_share"].items(), key=lambda item: -item[1])
    parts = [f"{palette.words(c)} {100 * share:.0f} %" for c, share in shares if share >= 0.01]
    alone = run is first and not run.remark
    head = f"{run.name}: critical path: " if alone else "  critical path: "
    said = "; ".join(filter(None, [", ".join(parts), _longest(run)]))
    yield from wrapped(head, said.split(" "), joint=" ")


def _longest(run: Compared) -> str:
    """Return the task that the critical path spends most time in."""
    path = run.summary.get("critical_path") or []
    if not path:
        return ""
    part = max(path, key=lambda one: float(one["seconds"]))
    return f"most in {part['what']} ({100 * float(part['seconds']) / run.step_time_s:.0f} %)"
