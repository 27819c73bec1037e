"""Names of links, and the patterns that disturbances select them with."""

from __future__ import annotations

import re
from fnmatch import translate
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from desim.network.shape import Shape

_RAIL = re.compile(r"rail(\d+)")


def link_name(shape: Shape, kind: str, index: int) -> str:
    """Name of link `index` of a kind."""
    if kind.startswith("nic"):
        return f"{kind}[{index // shape.rails}.{index % shape.rails}]"
    if kind.startswith("socket"):
        return f"{kind}[{index // shape.sockets}.{index % shape.sockets}]"
    if kind.startswith("leaf"):
        if shape.leaves_per_unit == 1:
            return f"{kind}[su{index}]"
        return f"{kind}[su{index // shape.rails}.rail{index % shape.rails}]"
    if kind.startswith("spine"):
        level = 2
        while index >= shape.num_pods(level):
            index, level = index - shape.num_pods(level), level + 1
        return f"{kind}[{level}.{index}]"
    return f"{kind}[{index}]"


def matching(
    shape: Shape, counts: dict[str, int], pattern: str
) -> list[tuple[str, NDArray[np.int64]]]:
    """Kinds and indices of the links that fit a pattern or alias; `counts` has links per kind."""
    alias = _RAIL.fullmatch(pattern)
    if alias:
        return _rail(shape, counts, int(alias[1]))
    # Brackets are part of the names: only * and ? are wildcards.
    fits = re.compile(translate(pattern.replace("[", "[[]"))).match
    before_bracket = re.compile(translate(pattern.split("[")[0] + ("" if "[" in pattern else "*")))
    found = []
    for kind, count in counts.items():
        # Naming every link of a large cluster takes a second, so other kinds are passed over.
        if "*" not in pattern.split("[")[0] and not before_bracket.match(kind):
            continue
        index = [i for i in range(count) if fits(link_name(shape, kind, i))]
        if index:
            found.append((kind, np.array(index, np.int64)))
    return found


def _rail(shape: Shape, counts: dict[str, int], rail: int) -> list[tuple[str, NDArray[np.int64]]]:
    if rail >= shape.rails:
        return []
    kinds = ["nic_out", "nic_in"]
    if shape.leaves_per_unit > 1:
        kinds += ["leaf_up", "leaf_down"]
    return [(kind, np.arange(rail, counts[kind], shape.rails)) for kind in kinds if counts[kind]]
