"""The table while it is measured: a row is on disk at once, and is not measured again."""

from __future__ import annotations

import csv
import os
from typing import TYPE_CHECKING

from desim.errors import Mistake, SpecError
from desim.export.files import drop_cut_line
from desim.kernels.table_file import COLUMNS, read_table

if TYPE_CHECKING:
    from pathlib import Path

    from desim.kernels.table_file import MeasuredRow


class Journal:
    """Rows of one device in a file that grows by whole lines.

    A last line that an interruption cut is dropped. Raises SpecError where the file cannot be
    read or holds rows of another device.
    """

    def __init__(self, file: Path, device: str) -> None:
        self.file = file
        self._device = device
        self.rows: list[MeasuredRow] = []
        if file.is_file():
            drop_cut_line(file)
            self.rows = read_table(file)
        others = {row.device for row in self.rows} - {device}
        if others:
            rule = f"holds rows of {', '.join(sorted(others))}, and this is {device}"
            raise SpecError([Mistake("", rule, hint="name another --out", file=str(file))])
        self._keys = {row.key for row in self.rows}

    def has(self, key: tuple[str, ...]) -> bool:
        """Whether a row was measured before."""
        return key in self._keys

    def add(self, row: MeasuredRow) -> None:
        """Append a row and bring it to the disk."""
        new = not self.file.is_file()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", newline="", encoding="utf-8") as lines:
            writer = csv.DictWriter(lines, COLUMNS, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row.cells())
            lines.flush()
            os.fsync(lines.fileno())
        self.rows.append(row)
        self._keys.add(row.key)
