"""Text files that a user names: read whole, or refused in plain words before they are read."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from desim.errors import Mistake, SpecError

#: Largest table that is read.
MAX_TABLE_BYTES = 100_000_000
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def shown(path: Path) -> str:
    """Return `path` as messages show it: relative to the working directory where it lies below."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path).replace("\0", "?")


def read_yaml_text(path: Path, most_bytes: int) -> str:
    """Return the text of a YAML file; raises SpecError for what cannot be one."""
    return _read(path, "YAML", "a scenario", (".yaml", ".yml"), most_bytes)


def read_table_text(path: Path) -> str:
    """Return the text of a CSV file with commas; raises SpecError for what cannot be one."""
    text = _read(path, "CSV", "a table", (".csv",), MAX_TABLE_BYTES)
    head = text.lstrip().partition("\n")[0]
    if not head:
        raise refuse(shown(path), "is empty", "its first line must name the columns")
    for sign, name in ((";", "semicolons"), ("\t", "tabs")):
        if "," not in head and sign in head:
            rule = f"has {name} between its columns"
            raise refuse(shown(path), rule, "write commas, quote cells that hold them", 1)
    return text


def _read(path: Path, kind: str, purpose: str, endings: tuple[str, ...], most_bytes: int) -> str:
    name = shown(path)
    try:
        if path.is_dir():
            raise refuse(name, "is a folder", f"name a {kind} file in it")
        size = path.stat().st_size
        if size > most_bytes:
            rule = f"is too large to be {purpose}: {size} bytes > {most_bytes} bytes allowed"
            raise refuse(name, rule)
        data = _bounded(path, name, most_bytes)
    except FileNotFoundError:
        raise refuse(name, "does not exist", similar_file(path, endings)) from None
    except (OSError, ValueError) as error:
        raise refuse(name, f"cannot be read: {error}") from None
    if data.startswith(_UTF_16):
        raise refuse(name, "is UTF-16 text", "save it as UTF-8")
    if b"\0" in data:
        raise refuse(name, f"is a binary file, not {kind} text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        rule = f"is not UTF-8 text (byte {error.start} cannot be read)"
        raise refuse(name, rule, "save it as UTF-8") from None


def _bounded(path: Path, name: str, most_bytes: int) -> bytes:
    """Read at most the allowed size, also where the size is not known beforehand."""
    if not path.is_file():
        raise refuse(name, "is not a regular file")
    with path.open("rb") as stream:
        return stream.read(most_bytes)


def similar_file(path: Path, endings: tuple[str, ...] = (".yaml", ".yml")) -> str:
    """Suggest files of the same folder with a name like the missing one."""
    try:
        names = [entry for entry in os.listdir(path.parent) if entry.endswith(endings)]
    except (OSError, ValueError):
        return ""
    close = difflib.get_close_matches(path.name, names, n=1) or difflib.get_close_matches(
        f"{path.name}{endings[0]}", names, n=1
    )
    return f"did you mean {path.parent / close[0]}?" if close else ""


def refuse(file: str, rule: str, hint: str = "", line: int = 0) -> SpecError:
    """Return the error of one mistake that is the whole file's, or a line's."""
    return SpecError([Mistake(path="", rule=rule, hint=hint, file=file, line=line)])
