"""Tables of measured kernels: which file a scenario's `kernels.tables` stands for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from desim.errors import Mistake, SpecError
from desim.spec.catalogue import MEASURED
from desim.spec.explain import locate
from desim.spec.nodes import Node
from desim.spec.scenario import Scenario

_PATH = ("kernels", "tables")


def file_name(device_name: str) -> str:
    """Return what the files of a device are called: `H200-SXM-141GB` is `h200_sxm_141gb`."""
    letters = (c if c.isascii() and c.isalnum() else "_" for c in device_name.lower())
    return "".join(letters)


def settle_tables(scenario: Scenario, root: Node, roots: Sequence[Path]) -> Scenario:
    """Return the scenario with `kernels.tables` a path or `none`; raises SpecError for no file.

    A path is relative to the file that names it, then to the working directory; `auto` takes the
    table of the first of the catalogue folders `roots` that has one for the device.
    """
    written = scenario.kernels.tables
    if written == "none":
        return scenario
    file, line = locate(_PATH, root)
    if written == "auto":
        name = file_name(scenario.cluster.system.device.name)
        places = [folder / MEASURED / f"{name}.csv" for folder in roots]
    else:
        places = [Path(file).parent / written, Path(written)] if line else [Path(written)]
    found = next((str(place.resolve()) for place in places if _is_file(place)), None)
    if found is None and written != "auto":
        rule = "no such table of measured kernels"
        hint = "none, auto, or the path of a file that desim calibrate wrote"
        raise SpecError([Mistake(".".join(_PATH), rule, repr(written), hint, file, line)])
    kernels = scenario.kernels.model_copy(update={"tables": found or "none"})
    return scenario.model_copy(update={"kernels": kernels})


def _is_file(place: Path) -> bool:
    """Whether there is such a file; what no file can be called is none."""
    try:
        return place.is_file()
    except (OSError, ValueError):
        return False
