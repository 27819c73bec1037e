"""What is put into pages that need nothing else: styles, scripts, plotly, data."""

from __future__ import annotations

import importlib.util
import json
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def resource(name: str) -> str:
    """Return the text of a file that lies beside this one."""
    return resources.files("desim.report").joinpath(name).read_text(encoding="utf-8")


def plotly_source() -> str:
    """Return plotly.js from the installed package, which need not be imported for it."""
    spec = importlib.util.find_spec("plotly")
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


def inline_json(data: Mapping[str, Any]) -> str:
    """Return JSON that cannot end the script element that holds it."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("</", "<\\/")


def scripts(*names: str) -> str:
    """Return scripts one after the other as one, in strict mode."""
    strict = '"use strict";\n'
    return strict + "".join(resource(name).removeprefix(strict) for name in names)
