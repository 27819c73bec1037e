"""Tables of measured kernels: one CSV file per device, one row per kernel.

`hardware/measured/README.md` explains the columns. A row is an op and its time, so that what is
measured and what is asked for are compared as the same thing.
"""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from desim.errors import Mistake, SpecError
from desim.models.op import Op
from desim.spec.text_file import read_table_text, refuse, shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from desim.models.op import OpKind

COLUMNS = (
    "kind", "name", "variant", "dtype", "backend", "shape", "flops", "read_bytes", "write_bytes",
    "seconds", "spread", "runs", "device", "software",
)  # fmt: skip
_SIZES = {"gemm": 3, "attention": 6}


@dataclass(frozen=True, slots=True)
class MeasuredRow:
    """An op that ran alone on a device: the median of `runs` times, in seconds.

    `backend` names the attention kernels. `spread` is the distance from the first to the ninth
    decile of the times over their median.
    """

    op: Op
    seconds: float
    backend: str = ""
    spread: float = 0.0
    runs: int = 1
    device: str = ""
    software: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        """What is measured once: kind, name, variant, format, backend and shape."""
        return row_key(self.op, self.backend)

    def cells(self) -> dict[str, str]:
        """Return the row as it stands in the file."""
        op = self.op
        kind, name, variant, dtype, backend, shape = self.key
        return {
            **{"kind": kind, "name": name, "variant": variant, "dtype": dtype},
            **{"backend": backend, "shape": shape, "flops": f"{op.flops:.15g}"},
            **{"read_bytes": f"{op.read_bytes:.15g}", "write_bytes": f"{op.write_bytes:.15g}"},
            **{"seconds": f"{self.seconds:.6g}", "spread": f"{self.spread:.4f}"},
            **{"runs": str(self.runs), "device": self.device, "software": self.software},
        }


def row_key(op: Op, backend: str) -> tuple[str, ...]:
    """Return what tells the rows of a table apart."""
    shape = "x".join(map(str, op.shape))
    return (op.kind, op.name, op.variant, op.dtype, backend, shape)


def read_table(file: Path) -> list[MeasuredRow]:
    """Read a table; raises SpecError that names every line which is not a measured kernel."""
    rows, mistakes = [], []
    reader = csv.DictReader(io.StringIO(read_table_text(file), newline=""))
    missing = set(COLUMNS) - set(reader.fieldnames or ())
    if missing:
        rule = f"lacks the columns {', '.join(sorted(missing))}"
        raise refuse(shown(file), rule, "as hardware/measured/README.md says", 1)
    for cells in reader:
        try:
            rows.append(_row(cells))
        except (ValueError, TypeError) as error:
            rule = f"is not a measured kernel: {error}"
            mistakes.append(Mistake("", rule, file=shown(file), line=reader.line_num))
    if mistakes:
        raise SpecError(mistakes)
    return rows


def _row(cells: Mapping[str, str]) -> MeasuredRow:
    """Raises ValueError or TypeError for cells that make no row."""
    kind = cells["kind"]
    shape = tuple(int(size) for size in cells["shape"].split("x"))
    if min(shape) < 1:
        raise ValueError(f"shape {cells['shape']} has a size below 1")
    if len(shape) != _SIZES.get(kind, len(shape)):
        raise ValueError(f"{kind} has {_SIZES[kind]} sizes, {cells['shape']} has {len(shape)}")
    if kind == "attention" and cells["variant"] not in ("forward", "backward"):
        raise ValueError(f"attention is forward or backward, not {cells['variant']!r}")
    numbers = [float(cells[name]) for name in ("flops", "read_bytes", "write_bytes", "seconds")]
    if not all(map(math.isfinite, numbers)) or min(numbers) < 0 or numbers[3] == 0:
        raise ValueError("FLOPs, bytes and seconds must be finite, none negative, seconds above 0")
    flops, read, write, seconds = numbers
    name, dtype, variant = cells["name"], cells["dtype"], cells["variant"]
    return MeasuredRow(
        Op(name, cast("OpKind", kind), dtype, flops, read, write, shape, variant),
        seconds,
        cells["backend"],
        float(cells["spread"]),
        int(cells["runs"]),
        cells["device"],
        cells["software"],
    )
