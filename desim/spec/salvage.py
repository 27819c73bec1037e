"""Make the best of a refused scenario, so that the rules can be checked in the same pass."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import ValidationError

from desim.errors import SpecError
from desim.spec.catalogue import Catalogue
from desim.spec.explain import written_path
from desim.spec.nodes import Node, Path, child, from_plain, nearest, plain
from desim.spec.scenario import Scenario
from desim.spec.schema import valid_keys

_ROUNDS = 6
#: what stands in for a required value that is missing or wrong: nothing reads it afterwards
_STAND_INS: dict[Path, Any] = {
    ("name",): "unnamed",
    ("workload",): {},
    ("cluster",): {},
    ("workload", "global_batch"): 1,
    ("workload", "micro_batch"): 1,
    ("cluster", "devices"): 1,
}
_NAMED_STAND_INS: dict[Path, tuple[str, str]] = {
    ("workload", "model"): ("workloads", "llama2_7b"),
    ("cluster", "system"): ("systems", "dgx_h100_ndr400"),
}


def salvage(root: Node, catalogue: Catalogue) -> tuple[Scenario | None, set[Path]]:
    """Return a valid scenario without what is wrong in `root`, and the paths that were changed.

    `root` is changed. None where too little is left.
    """
    refused: set[Path] = set()
    for _ in range(_ROUNDS):
        try:
            return Scenario.model_validate(plain(root)), refused
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                path = written_path(detail, root)
                if not path:
                    return None, refused
                _mend(root, path, str(detail["type"]), refused, catalogue)
    return None, refused


def _mend(root: Node, path: Path, kind: str, refused: set[Path], catalogue: Catalogue) -> None:
    """Take away what stands at `path`, or put in what is missing there."""
    if kind == "extra_forbidden":
        close = difflib.get_close_matches(str(path[-1]), valid_keys(root, path[:-1]), n=1)
        refused.update((*path[:-1], key) for key in close)
        _remove(root, path)
        return
    refused.add(path)
    for slot, (folder, name) in _NAMED_STAND_INS.items():
        if path[:2] == slot and (kind == "missing" or len(path) == 2):
            refused.add(slot)
            _put(root, slot, _from_catalogue(catalogue, folder, name, slot))
            return
    if path in _STAND_INS:
        _put(root, path, from_plain(_STAND_INS[path]))
    elif kind == "missing":
        refused.add(path[:-1])
        _remove(root, path[:-1])
    else:
        _remove(root, path)


def _remove(root: Node, path: Path) -> None:
    """Take away what stands at `path`; a list is taken away as a whole."""
    if not path:
        return
    parent, depth = nearest(root, path[:-1])
    if depth == len(path) - 1 and isinstance(parent.value, dict):
        parent.value.pop(str(path[-1]), None)
    else:
        _remove(root, path[:-1])


def _from_catalogue(catalogue: Catalogue, folder: str, name: str, slot: Path) -> Node:
    try:
        return Catalogue(catalogue.roots).expand(Node(name), folder, slot)
    except SpecError:
        return Node(None)


def _put(root: Node, path: Path, node: Node) -> None:
    holder = root
    for key in path[:-1]:
        below = child(holder, key)
        if below is None:
            return
        holder = below
    if isinstance(holder.value, dict):
        holder.value[str(path[-1])] = node
