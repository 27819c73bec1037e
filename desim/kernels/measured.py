"""Measured kernels in place of modelled ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from desim.kernels.attention import is_causal, padding_factor
from desim.kernels.gemm import accumulates, aligned_bytes
from desim.kernels.grid import Grid
from desim.kernels.table_file import read_table
from desim.kernels.time import KernelTime

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from desim.kernels.grid import Sizes
    from desim.kernels.table_file import MeasuredRow
    from desim.models.op import Op

#: What `kernels.tables` says where there is no file: `auto` is settled when a scenario is loaded.
NO_TABLE = ("none", "auto")

#: Work grows with these powers of the sizes of `place`.
_EXPONENTS = {"gemm": (1, 1, 1), "attention": (1, 2)}
#: Kernels that stream memory are alike where their shares of reads differ by no more.
_LIKE = 0.15


class MeasuredTables:
    """Times of ops from the rows of a table, called by `KernelModel` before its formulas.

    GEMMs lie on a grid of m, n, k per format, layout and alignment; attention on one of batch x
    heads and sequence per backend, pass, mask, head dimension and heads per key; kernels that
    stream memory go by their bytes per kind and share of reads. Batches of GEMMs, grouped GEMMs and
    attention over unlike documents are not looked up.
    """

    def __init__(self, rows: Iterable[MeasuredRow], backend: str) -> None:
        self._backend = backend
        found: dict[Hashable, dict[Sizes, list[float]]] = {}
        shares: dict[str, set[float]] = {}
        devices = set()
        for row in rows:
            put = place(row.op, row.backend)
            if put is not None:
                found.setdefault(put[0], {}).setdefault(put[1], []).append(row.seconds)
            if row.op.kind not in _EXPONENTS:
                shares.setdefault(row.op.kind, set()).add(read_share(row.op))
            devices.add(row.device)
        self.devices = tuple(sorted(devices))
        self._shares = {kind: sorted(known) for kind, known in shares.items()}
        self._grids = {
            key: Grid(
                {sizes: float(np.median(times)) for sizes, times in points.items()},
                _EXPONENTS.get(_kind(key), (1,)),
            )
            for key, points in found.items()
        }

    def __call__(self, op: Op) -> KernelTime | None:
        """Return the time of `op` alone, not yet in parts, or None where no row is near."""
        put = place(op, self._backend)
        if put is None:
            return None
        key, sizes = put
        if op.kind not in _EXPONENTS:
            wanted = read_share(op)
            known = self._shares.get(op.kind, [])
            nearest = min(known, key=lambda share: abs(share - wanted), default=None)
            if nearest is None or abs(nearest - wanted) > _LIKE:
                return None
            key = (op.kind, nearest)
        grid = self._grids.get(key)
        found = grid.at(sizes) if grid is not None else None
        if found is None:
            return None
        return KernelTime(0.0, 0.0, found.seconds, found.source)


def open_tables(tables: str, backend: str) -> MeasuredTables | None:
    """Return the tables that `kernels.tables` names; raises SpecError for a file it cannot read."""
    if tables in NO_TABLE:
        return None
    return MeasuredTables(read_table(Path(tables)), backend)


def place(op: Op, backend: str) -> tuple[tuple[Hashable, ...], Sizes] | None:
    """Return which grid an op belongs to and where it lies in it; None for ops of no grid."""
    if op.kind == "gemm":
        m, n, k, *batch = op.shape
        if batch not in ([], [1]):
            return None
        adds = accumulates(op)
        # Operands of fp8 GEMMs lie along k whatever the pass.
        layout = "forward" if op.dtype == "fp8" and not adds else op.variant
        return ("gemm", op.dtype, layout, adds, aligned_bytes(op)), (m, n, k)
    if op.kind == "attention":
        batches, heads, kv_heads, queries, keys, dim = op.shape
        if op.packing or queries != keys or padding_factor(op) != 1.0:
            return None
        kernel = ("attention", backend, op.dtype, op.variant, is_causal(op), dim)
        return (*kernel, heads / kv_heads), (batches * heads, queries)
    if op.kind == "grouped_gemm":
        return None
    return (op.kind, read_share(op)), (op.read_bytes + op.write_bytes,)


def read_share(op: Op) -> float:
    """Return the share of reads among the bytes of an op, in hundredths."""
    crossing = op.read_bytes + op.write_bytes
    return round(op.read_bytes / crossing, 2) if crossing else 0.0


def _kind(key: Hashable) -> str:
    assert isinstance(key, tuple)
    return str(key[0])
