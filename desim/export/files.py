"""Files that are either complete or not there, or end with a whole line."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def write_aside(path: Path | str, content: bytes | Callable[[IO[bytes]], object]) -> None:
    """Write a file under a temporary name in its folder, then rename it to `path`.

    `content` is the bytes, or a function that writes them to the open file. When anything fails or
    the user interrupts, the temporary file is removed and an old `path` stays as it was.
    """
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
        # mkstemp makes private files; results are as readable as any other new file.
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def drop_cut_line(file: Path) -> None:
    """Cut what follows the last line end; a file of nothing else goes."""
    content = file.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if not whole:
        file.unlink()
    elif whole != content:
        write_aside(file, whole)


def _umask() -> int:
    """Return the process's umask, which can only be read by setting it."""
    umask = os.umask(0o022)
    os.umask(umask)
    return umask
