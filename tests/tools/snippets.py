"""Runs the code blocks of a Markdown page and compares what they print with what the page says.

A page is a session: its `python` blocks share one set of names, its `sh` blocks run one after the
other in one folder. The `text` block right after a block is what it prints (what a refused command
says included). `...` as a line of a `text` block stands for any number of lines, and numbers that
measure this machine are not compared.

    python -m tests.tools.snippets README.md docs/how-it-works.md

writes what is printed now into the pages.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: What depends on the machine: the time that the simulation itself took.
_MEASURED = re.compile(r"((?:events|variants) in )[0-9.]+( s)")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text and where the text stands in the page."""

    language: str
    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Example:
    """A block that can be run, and the block that shows what it prints."""

    code: Block
    printed: Block | None


def examples(page: str) -> list[Example]:
    """The `python` and `sh` blocks of a page, in order."""
    blocks = [Block(m[1], m[2], m.start(2), m.end(2)) for m in _FENCE.finditer(page)]
    found = []
    for number, block in enumerate(blocks):
        if block.language in ("python", "sh"):
            after = blocks[number + 1] if number + 1 < len(blocks) else None
            shown = after is not None and after.language == "text"
            if after is not None and shown:
                shown = page[block.end : after.start].split() == ["```", "```text"]
            found.append(Example(block, after if shown else None))
    return found


def run(page: str, folder: Path) -> Iterator[tuple[Example, str]]:
    """Run the examples of a page in `folder` and yield what each prints."""
    names: dict[str, Any] = {"__name__": "__page__"}
    for example in examples(page):
        if example.code.language == "python":
            yield example, _python(example.code.text, names, folder)
        else:
            yield example, _shell(example.code.text, folder)


def _python(text: str, names: dict[str, Any], folder: Path) -> str:
    printed = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        exec(compile(text, "<page>", "exec"), names)
    return printed.getvalue()


def _shell(text: str, folder: Path) -> str:
    """Run the lines that call desim; installing and testing is what CI does."""
    lines = text.replace("\\\n", " ").splitlines()
    printed = ""
    for line in lines:
        command = line.split("&&")[-1].strip()
        if not command.startswith("python -m desim"):
            continue
        python = f'"{sys.executable}"'
        done = subprocess.run(
            command.replace("python", python, 1),
            shell=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if done.returncode not in (0, 2):
            raise AssertionError(f"{line}: exit code {done.returncode}\n{done.stderr}")
        printed += done.stdout + (done.stderr if done.returncode else "")
    return printed


def agrees(printed: str, said: str) -> bool:
    """Whether a page's `text` block shows what was printed."""
    pattern = ""
    for line in _stable(said).splitlines():
        pattern += r"(.*\n)*?" if line.strip() == "..." else re.escape(line) + r"\n"
    return re.fullmatch(pattern, _stable(printed)) is not None


def _stable(text: str) -> str:
    lines = [line.rstrip() for line in _MEASURED.sub(r"\1#\2", text).strip("\n").splitlines()]
    return "\n".join(lines) + "\n"


def refreshed(page: str, folder: Path) -> str:
    """The page with what its examples print now; a block with `...` keeps as many first lines."""
    result, at = "", 0
    for example, printed in run(page, folder):
        if example.printed is None or agrees(printed, example.printed.text):
            continue
        result += page[at : example.printed.start] + _shortened(printed, example.printed.text)
        at = example.printed.end
    return result + page[at:]


def _shortened(printed: str, said: str) -> str:
    now, before = printed.strip("\n").splitlines(), said.splitlines()
    if "..." in before:
        cut = before.index("...")
        tail = len(before) - cut - 1
        now = [*now[:cut], "...", *now[len(now) - tail :]]
    return "\n".join(line.rstrip() for line in now) + "\n"


def main(pages: list[str]) -> None:
    for name in pages:
        page = Path(name)
        page.write_text(refreshed(page.read_text(), ROOT))


if __name__ == "__main__":
    main(sys.argv[1:])
