"""How a table of switches is written."""

from __future__ import annotations

from typing import TypeAlias

#: Choice of a field (`ALL` for the field as a whole, `NUMBER` for any number) -> its switches.
Switches: TypeAlias = dict[str, tuple[str, ...]]

ALL = ""
NUMBER = "a number"
NONE = "no framework switch"
