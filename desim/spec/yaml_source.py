"""YAML text to located nodes, with every way a file can be unreadable refused in plain words.

YAML 1.2: `1e9` is a number, `on` and a date are text, a key that stands twice is a mistake.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

from desim.errors import Mistake, SpecError
from desim.spec.nodes import Node, Scalar, copied
from desim.spec.text_file import read_yaml_text, refuse, shown

if TYPE_CHECKING:
    from pathlib import Path

MAX_FILE_BYTES = 1_000_000
MAX_NODES = 50_000
MAX_DEPTH = 40
_TAG = "tag:yaml.org,2002:"
_QUOTES = 'a text with brackets stands in quotes there, as in {link: "nic_out[3.0]"}'
_SCENARIO = "name, workload and cluster"
#: Documents that are kept as they were read.
_REMEMBERED = 64


def read_file(path: Path, mistakes: list[Mistake] | None = None, *, needs: str = _SCENARIO) -> Node:
    """Read one YAML (or JSON) file; raises SpecError naming the file for whatever is wrong.

    Mistakes that leave something to read, such as a key that stands twice, go to `mistakes` where
    it is given. `needs` says what an empty one lacks.
    """
    return read_text(read_yaml_text(path, MAX_FILE_BYTES), shown(path), mistakes, needs=needs)


def read_text(
    text: str, file: str, mistakes: list[Mistake] | None = None, *, needs: str = _SCENARIO
) -> Node:
    """Read one YAML document; `file` is what messages call it, the others as in `read_file`."""
    root, found = _parsed(text, file, needs)
    if mistakes is not None:
        mistakes.extend(found)
    elif found:
        raise SpecError(found)
    return copied(root)


@lru_cache(maxsize=_REMEMBERED)
def _parsed(text: str, file: str, needs: str) -> tuple[Node, tuple[Mistake, ...]]:
    """The nodes of a document and what is wrong with them; studies read the same ones often."""
    try:
        root = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 0
        problem = " ".join(str(part) for part in (error.context, error.problem) if part)
        hint = _QUOTES if "got '['" in problem else ""
        raise refuse(file, f"is not valid YAML: {problem}", hint, line) from None
    except YAMLError as error:
        first = str(error).splitlines()[0]
        raise refuse(file, f"is not valid YAML: {first}") from None
    except (RecursionError, ValueError, OverflowError):
        raise refuse(file, "is not valid YAML: it is nested too deeply or malformed") from None
    if root is None:
        raise refuse(file, "is empty", f"write at least {needs}")
    reader = _Reader(file)
    return reader.node(root, root.start_mark.line + 1, 0), tuple(reader.mistakes)


class _Reader:
    """Turns composed YAML nodes into located plain values and gathers what is wrong with them."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.count = 0
        self.mistakes: list[Mistake] = []

    def node(self, node: object, line: int, depth: int) -> Node:
        self.count += 1
        if self.count > MAX_NODES or depth > MAX_DEPTH:
            limit = f"{MAX_NODES} values" if self.count > MAX_NODES else f"{MAX_DEPTH} levels"
            raise refuse(
                self.file,
                f"holds more than {limit} once its aliases are expanded",
                "write values out instead of nesting aliases",
                line,
            )
        if isinstance(node, MappingNode):
            return Node(self._mapping(node, depth), self.file, line)
        if isinstance(node, SequenceNode):
            items = [self.node(item, item.start_mark.line + 1, depth + 1) for item in node.value]
            return Node(items, self.file, line)
        assert isinstance(node, ScalarNode)
        return Node(self._scalar(node), self.file, line)

    def _mapping(self, node: MappingNode, depth: int) -> dict[str, Node]:
        result: dict[str, Node] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, ScalarNode):
                self._mistake("a key must be text", "a list or mapping", line)
                continue
            name = str(key.value)
            below = self.node(value, line, depth + 1)
            if name in result:
                first = result[name].line
                self._mistake(f"key stands twice (first in line {first})", name, line)
            else:
                result[name] = below
        return result

    def _scalar(self, node: ScalarNode) -> Scalar:
        tag = str(node.tag)
        text = str(node.value)
        if tag == _TAG + "null":
            return None
        if tag == _TAG + "bool":
            return text.lower() == "true"
        try:
            if tag == _TAG + "int":
                return _integer(text)
            if tag == _TAG + "float":
                return _float(text)
        except ValueError:
            return text
        if tag not in (_TAG + "str", _TAG + "timestamp"):
            self._mistake("YAML tags are not used here", tag, node.start_mark.line + 1)
        return text

    def _mistake(self, rule: str, value: str, line: int) -> None:
        self.mistakes.append(Mistake(path="", rule=rule, value=value, file=self.file, line=line))


def _integer(text: str) -> int:
    digits = text.replace("_", "").lstrip("+")
    if len(digits) > 40:
        raise ValueError("longer than any number in a scenario")
    if digits[:2] in ("0x", "0o", "0b"):
        return int(digits, 0)
    return int(digits)


def _float(text: str) -> float:
    digits = text.replace("_", "").lower()
    if digits.lstrip("+-") in (".inf", ".nan"):
        return float(digits.replace(".", ""))
    return float(digits)
