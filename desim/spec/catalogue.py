"""Catalogues: names of models, systems, devices and fabrics, found and put in their place."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path

from desim.errors import Mistake, SpecError
from desim.spec.importers import hf
from desim.spec.nodes import Node, dotted, merge
from desim.spec.nodes import Path as KeyPath
from desim.spec.text_file import shown
from desim.spec.yaml_source import read_file

FOLDERS = {
    "workloads": "workloads",
    "systems": "hardware/systems",
    "devices": "hardware/devices",
    "fabrics": "hardware/fabrics",
    "collectives": "hardware/collectives",
}
#: Tables of measured kernels, found by the device's name.
MEASURED = "hardware/measured"
#: where a name, a path or a mapping with `base` may stand: path in the scenario -> kind
SLOTS: dict[KeyPath, str] = {
    ("workload", "model"): "workloads",
    ("cluster", "system"): "systems",
    ("cluster", "system", "device"): "devices",
    ("cluster", "system", "fabric"): "fabrics",
    ("cluster", "system", "node_collectives"): "collectives",
}
_NESTED = {
    "systems": {"device": "devices", "fabric": "fabrics", "node_collectives": "collectives"},
}
_MAX_CHAIN = 8
_PACKAGE = Path(__file__).resolve().parent.parent


def roots_from(starts: Iterable[Path]) -> tuple[Path, ...]:
    """Return the folders that may hold catalogues: each start upward, then the package's own."""
    found: dict[Path, None] = {}
    for start in starts:
        resolved = start.resolve()
        for folder in (resolved, *resolved.parents):
            found.setdefault(folder)
    for folder in (_PACKAGE / "catalogue", _PACKAGE.parent):
        found.setdefault(folder)
    folders = (*FOLDERS.values(), MEASURED)
    return tuple(root for root in found if any((root / sub).is_dir() for sub in folders))


def list_names(kind: str, start: Path | None = None) -> tuple[str, ...]:
    """Return the sorted names of a kind, one of `FOLDERS`."""
    return Catalogue(roots_from([start or Path.cwd()])).names(kind)


class Catalogue:
    """The catalogue folders of one scenario.

    What cannot be found or read is gathered in `mistakes`, and the paths that name it in `failed`.
    """

    def __init__(self, roots: tuple[Path, ...]) -> None:
        self.roots = roots
        self.mistakes: list[Mistake] = []
        self.failed: set[KeyPath] = set()

    def names(self, kind: str) -> tuple[str, ...]:
        """Return the names of a kind over all folders, sorted."""
        return tuple(sorted({path.stem for path in self._files(kind)}))

    def _files(self, kind: str) -> Iterator[Path]:
        for root in self.roots:
            folder = root / FOLDERS[kind]
            if folder.is_dir():
                yield from folder.glob("*.yaml")

    def expand(self, node: Node, kind: str, path: KeyPath) -> Node:
        """Return `node` with names and `base` replaced by what they stand for, also below it.

        What cannot be found becomes a null node and a mistake.
        """
        return self._expand(node, kind, path, None, 0)

    def _expand(self, node: Node, kind: str, path: KeyPath, under: Node | None, chain: int) -> Node:
        if chain > _MAX_CHAIN:
            return self._fail(node, path, f"names refer to each other more than {_MAX_CHAIN} deep")
        if isinstance(node.value, str):
            loaded = self._load(node, kind, path)
            return self._expand(loaded, kind, path, None, chain + 1)
        if not isinstance(node.value, dict):
            return node
        base = node.value.get("base")
        if base is not None:
            under = self._expand(base, kind, path, None, chain + 1)
            if under.value is None:
                return under
        below = dict(under.value) if under is not None and isinstance(under.value, dict) else {}
        slots = _NESTED.get(kind, {})
        for key, value in node.value.items():
            if key in slots:
                below[key] = self._expand(
                    value, slots[key], (*path, key), below.get(key), chain + 1
                )
            elif key != "base":
                below[key] = merge(below[key], value) if key in below else value
        return Node(below, node.file, node.line)

    def _load(self, node: Node, kind: str, path: KeyPath) -> Node:
        """Read the file that the name or path in `node` stands for."""
        name = str(node.value)
        is_path = "/" in name or name.endswith((".yaml", ".yml", ".json"))
        file = self._by_path(node, name) if is_path else self._by_name(kind, name)
        if file is None:
            return self._unknown(node, kind, path)
        try:
            loaded = read_file(file)
            if kind == "workloads" and hf.is_config(loaded):
                return hf.convert(loaded)
        except SpecError as error:
            self.mistakes.extend(error.mistakes)
            self.failed.add(path)
            return Node(None, node.file, node.line)
        if not isinstance(loaded.value, dict):
            return self._fail(node, path, f"{shown(file)} must hold a mapping")
        return loaded

    def _by_name(self, kind: str, name: str) -> Path | None:
        for root in self.roots:
            file = root / FOLDERS[kind] / f"{name}.yaml"
            if _exists(file):
                return file
        return None

    def _by_path(self, node: Node, name: str) -> Path | None:
        """A path is relative to the file that names it, then to the working directory."""
        beside = Path(node.file).parent if node.line else Path()
        for file in (beside / name, Path(name)):
            if _exists(file):
                return file
        return None

    def _unknown(self, node: Node, kind: str, path: KeyPath) -> Node:
        names = self.names(kind)
        word = kind.removesuffix("s")
        name = str(node.value)
        starts = [known for known in names if name and known.startswith(name)]
        close = sorted(starts, key=len) or difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}? " if close else ""
        known = ", ".join(names) or "none found"
        return self._fail(node, path, f"no {word} has this name", f"{hint}{kind}: {known}")

    def _fail(self, node: Node, path: KeyPath, rule: str, hint: str = "") -> Node:
        self.failed.add(path)
        value = repr(node.value) if isinstance(node.value, str) else ""
        self.mistakes.append(Mistake(dotted(path), rule, value, hint, node.file, node.line))
        return Node(None, node.file, node.line)


def _exists(file: Path) -> bool:
    """Whether there is such a file; a name that no file can have is a name that none has."""
    try:
        return file.exists()
    except (OSError, ValueError):
        return False
