"""Pages that need nothing else: a frame and what is put into it (styles, scripts, plotly, data)."""

from __future__ import annotations

import html
import importlib.util
import json
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from desim.export.files import write_aside

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


def write_page(
    path: Path | str,
    body: str,
    parts: Mapping[str, str],
    *,
    title: str,
    subtitle: str,
    styles: Sequence[str],
    code: Sequence[str],
    data: Mapping[str, Any],
) -> None:
    """Write a page: the file `body` with its `parts` (markup by name) in the frame of all pages.

    `styles` and `code` are the files of its styles and scripts, `data` is what these draw.
    """
    text = Template(resource("frame.html")).substitute(
        title=html.escape(title),
        subtitle=html.escape(subtitle),
        body=Template(resource(body)).substitute(parts),
        css="".join(map(resource, styles)),
        plotly=plotly_source(),
        data=inline_json(data),
        script=scripts(*code),
    )
    write_aside(path, text.encode())


def warning_boxes(warnings: Iterable[object]) -> str:
    """Return warnings as pages show them."""
    return "".join(f'<div class="warning">{html.escape(str(text))}</div>' for text in warnings)


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
