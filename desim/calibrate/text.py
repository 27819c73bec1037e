"""What the command `calibrate` prints, and the head of the device file that it writes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from desim.calibrate.cases import BOTH, TO_DEVICE, TO_HOST

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from desim.calibrate.bench import Outcome
    from desim.calibrate.device_fit import DeviceFit
    from desim.kernels.table_file import MeasuredRow

_WAYS = {
    TO_DEVICE: "host to device",
    TO_HOST: "device to host",
    BOTH: "both at once, each way",
}


def render(fit: DeviceFit, outcome: Outcome | None, written: Sequence[Path]) -> str:
    """Return the report: what was measured, errors before and after, constants, files."""
    lines = [f"{fit.device.name}: calibration", *_outcome(outcome), *_errors(fit)]
    lines += [*_changes(fit), *_copies(fit)]
    lines.append("written: " + (", ".join(map(str, written)) or "nothing"))
    return "\n".join(lines) + "\n"


def device_comments(table: Path, rows: Sequence[MeasuredRow]) -> list[str]:
    """Return where the constants of a fitted device file come from."""
    software = ", ".join(sorted({row.software for row in rows if row.software}))
    return [
        f"Constants under `kernels` fitted by desim calibrate on {len(rows)} kernels of",
        f"{table.name} ({software or 'software not stated'}); those that no rows",
        "show, and all other values, are those of the device file it started from.",
    ]


def _outcome(outcome: Outcome | None) -> Iterator[str]:
    if outcome is None:
        return
    yield f"  {outcome.measured} kernels measured, {outcome.known} were in the table"
    for reason, count in outcome.left_out.items():
        yield f"  {count} left out: {reason}"


def _errors(fit: DeviceFit) -> Iterator[str]:
    if not fit.errors:
        return
    yield ""
    yield "error of the model       kernels   before: median     p90  after: median     p90"
    for error in fit.errors:
        shares = [f"{100 * value:.1f} %" for value in (*error.before, *error.after)]
        columns = f"{shares[0]:>17}{shares[1]:>8}{shares[2]:>16}{shares[3]:>8}"
        yield f"  {error.what:<26}{error.rows:>4}{columns}"


def _changes(fit: DeviceFit) -> Iterator[str]:
    if fit.changes:
        yield ""
        yield "constant                                          before       after"
    for name, before, after in fit.changes:
        was = "-" if math.isnan(before) else f"{before:.4g}"
        yield f"  {name:<42}{was:>12}{after:>12.4g}"
    yield ""


def _copies(fit: DeviceFit) -> Iterator[str]:
    """Host copies are the system's: its `pcie_efficiency` is a share of the device's `pcie`."""
    for way, rate in fit.copies:
        share = rate / fit.device.pcie_bytes_per_s
        yield f"  pinned copies {_WAYS[way]:<24}{rate / 1e9:7.1f} GB/s, {share:.2f} of pcie"
    if fit.copies:
        yield ""
