"""The journal of a sweep: every finished point is on disk at once, and is not played again."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import IO, TYPE_CHECKING, Any

from desim.errors import Mistake, SpecError
from desim.export.files import drop_cut_line
from desim.spec.text_file import shown

if TYPE_CHECKING:
    from pathlib import Path

JOURNAL = "points.jsonl"
_FORM = 1


@dataclass(frozen=True, slots=True)
class Finished:
    """What came of a scenario: the scalars of its summary, or why there are none.

    `again` says that it may come to something another time: its process was lost, not its sense.
    """

    scalars: dict[str, Any]
    error: str = ""
    again: bool = False


class Journal:
    """Finished points in a file that grows by whole lines, by the key of their scenario.

    A last line that an interruption cut is dropped. Raises SpecError where the file is another
    study's, of another version of desim or damaged, or is there at all without `resume`.
    """

    def __init__(self, folder: Path, study: str, *, resume: bool) -> None:
        self.file = folder / JOURNAL
        self.found: dict[str, Finished] = {}
        self._head = {"study": study, "desim": _version(), "form": _FORM}
        if self.file.is_file():
            self._read(resume)
        folder.mkdir(parents=True, exist_ok=True)
        self._stream: IO[bytes] = self.file.open("ab", buffering=0)
        _lock(self._stream, self.file)
        if not self._stream.tell():
            self._write(self._head)

    def add(self, key: str, finished: Finished) -> None:
        """Append a point and bring it to the disk; raises OSError where that fails."""
        self._write({"key": key, "error": finished.error, "scalars": finished.scalars})

    def discard(self) -> None:
        """Remove a journal that holds no point, and its folder where nothing else is in it."""
        if self.file.read_bytes().count(b"\n") > 1:
            return
        self.file.unlink()
        with suppress(OSError):
            self.file.parent.rmdir()

    def close(self) -> None:
        """Let go of the file."""
        self._stream.close()

    def _write(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        try:
            while line:
                line = line[self._stream.write(line) :]
            os.fsync(self._stream.fileno())
        except OSError as error:
            error.filename = str(self.file)
            raise

    def _read(self, resume: bool) -> None:
        """Take what is in the file, once it is known to be this study's."""
        drop_cut_line(self.file)
        if not self.file.is_file():
            return
        head, *entries = self.file.read_bytes().splitlines()
        self._require_ours(_parsed(head))
        if entries and not resume:
            rule = f"holds {len(entries)} finished points of this study"
            hint = "--resume goes on from them; another --out starts afresh"
            raise SpecError([Mistake("--out", rule, str(self.file.parent), hint)])
        for number, line in enumerate(entries, start=2):
            entry = _parsed(line)
            if entry is None or not {"key", "error", "scalars"} <= entry.keys():
                rule = "is not a finished point: the file is damaged"
                raise self._refused(rule, "delete the line to play that point again", number)
            self.found[entry["key"]] = Finished(entry["scalars"], entry["error"])

    def _require_ours(self, head: dict[str, Any] | None) -> None:
        if head is None or "study" not in head:
            raise self._refused("is not the journal of a sweep", "name another --out", 1)
        if head["study"] != self._head["study"]:
            rule = (
                f"holds points of the study {head['study']!r}, and this is {self._head['study']!r}"
            )
            raise self._refused(rule, "name another --out")
        if head != self._head:
            rule = (
                f"was written by desim {head.get('desim')}, and this is {self._head['desim']}:"
                " its points are not comparable"
            )
            raise self._refused(rule, "name another --out")

    def _refused(self, rule: str, hint: str, line: int = 0) -> SpecError:
        return SpecError([Mistake("", rule, hint=hint, file=shown(self.file), line=line)])


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def _version() -> str:
    try:
        return version("desim")
    except PackageNotFoundError:  # played from a copy of the source
        return "unknown"


def _lock(stream: IO[bytes], file: Path) -> None:
    """Keep a second sweep out of the same folder."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.close()
        rule = "another sweep is writing here"
        raise SpecError([Mistake("--out", rule, str(file.parent), "name another --out")]) from None
    except OSError:  # a file system without locks
        return
