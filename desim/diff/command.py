"""The command `diff`: options in, text out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from desim.diff.side_by_side import as_json, side_by_side
from desim.diff.text import render


def diff(options: Mapping[str, Any]) -> str:
    """Return what the command prints; raises SpecError for files that cannot be compared.

    `options` are those of `diff_parser` by name.
    """
    found = side_by_side(Path(options["trace"]), Path(options["result"]), options["rank"])
    if options["json"]:
        return json.dumps(as_json(found), indent=2) + "\n"
    return render(found)
