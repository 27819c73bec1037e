"""What kind of work a GPU activity is, by its name: the patterns of `names.yaml`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

UNKNOWN = "unknown"
HOST_COPY = "host copy"
SEND_RECV, ALL_TO_ALL = "send_recv", "all_to_all"
#: NCCL moves both by one kernel, which alone does not tell which it is.
EITHER = "send_recv or all_to_all"
_FILE = Path(__file__).with_name("names.yaml")


@dataclass(frozen=True)
class Names:
    """The tables of `names.yaml`: patterns of kernels, of collectives and of desim's kinds."""

    tables: dict[str, Any]

    def collective(self, name: str, stated: str = "") -> str:
        """Return which collective a kernel is, empty where it is none; `stated` counts first."""
        by_name = self._first("collectives", name)
        if by_name and stated:
            return self._first("collective_names", stated.strip("_")) or by_name
        return EITHER if by_name == SEND_RECV else by_name

    def kernel(self, name: str, simulated: str = "") -> str:
        """Return the kind of a kernel, `unknown` where no pattern is found.

        `simulated` is the kind that desim gives a kernel of its own.
        """
        if simulated:
            return str(self.tables["simulated"].get(simulated, UNKNOWN))
        return self._first("kernels", name) or UNKNOWN

    def copy(self, name: str) -> str:
        """Return the kind of what the trace says is a copy or a fill."""
        return self._first("copies", name) or UNKNOWN

    def _first(self, table: str, name: str) -> str:
        for kind, pattern in self._patterns[table]:
            if pattern.search(name):
                return kind
        return ""

    @cached_property
    def _patterns(self) -> dict[str, list[tuple[str, re.Pattern[str]]]]:
        return {
            key: [(entry["kind"], re.compile(entry["pattern"], re.IGNORECASE)) for entry in entries]
            for key, entries in self.tables.items()
            if isinstance(entries, list)
        }


def load_names() -> Names:
    """Read the tables."""
    with _FILE.open(encoding="utf-8") as file:
        return Names(YAML(typ="safe").load(file))
