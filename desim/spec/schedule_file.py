"""A schedule of the user's own where a name is asked for: its mapping, its orders, or a file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from desim.errors import Mistake, SpecError
from desim.spec.nodes import Node, child
from desim.spec.yaml_source import read_file

_SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True, slots=True)
class Moved:
    """What stands elsewhere than where it was written: a path, and where the user wrote it."""

    path: str
    written: str

    def back(self, mistake: Mistake) -> Mistake:
        """Return a mistake with the path that the user wrote."""
        if not f"{mistake.path}.".startswith(f"{self.path}."):
            return mistake
        path = self.written + mistake.path[len(self.path) :]
        return replace(mistake, path=path, hint=mistake.hint.replace(self.path, self.written))


def expand_schedule(root: Node) -> Moved | None:
    """Turn `policies.schedule: {orders: ...}` or `FILE.yaml` into `schedule: custom` and `custom`.

    Returns what was moved. `policies.custom` may also be the path of a file. A path is relative to
    the file that names it, then to the working directory. Raises SpecError where the file cannot be
    read, and leaves no schedule then, so that nothing else is said about it.
    """
    policies = child(root, "policies")
    if policies is None or not isinstance(policies.value, dict):
        return None
    written = policies.value.get("schedule")
    if written is not None and (isinstance(written.value, (dict, list)) or _is_path(written)):
        del policies.value["schedule"]
        policies.value["custom"] = _read(written, "policies.schedule")
        policies.value["schedule"] = Node("custom", written.file, written.line)
        alone = ".orders" if isinstance(written.value, list) else ""
        return Moved(f"policies.custom{alone}", "policies.schedule")
    if (given := policies.value.get("custom")) is not None:
        policies.value["custom"] = _read(given, "policies.custom")
    return None


def _is_path(node: Node) -> bool:
    text = node.value
    return isinstance(text, str) and ("/" in text or text.endswith(_SUFFIXES))


def _read(node: Node, path: str) -> Node:
    """Return the mapping that a node stands for: itself, orders alone, or what a file holds."""
    if _is_path(node):
        name = str(node.value)
        beside = Path(node.file).parent if node.line else Path()
        file = next((f for f in (beside / name, Path(name)) if f.is_file()), None)
        if file is None:
            rule, hint = "there is no such file", "a path is relative to the file that names it"
            raise SpecError([Mistake(path, rule, repr(name), hint, node.file, node.line)])
        node = read_file(file)
    if isinstance(node.value, list):
        return Node({"orders": node}, node.file, node.line)
    return node
