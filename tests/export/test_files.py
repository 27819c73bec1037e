"""A file is complete or not there."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

import pytest

from desim.export.files import write_aside

if TYPE_CHECKING:
    from pathlib import Path


def test_bytes_and_functions_are_written(tmp_path: Path) -> None:
    """Both forms of content replace what was there, and leave nothing else behind."""
    path = tmp_path / "out.bin"
    write_aside(path, b"one")
    assert path.read_bytes() == b"one"
    write_aside(path, lambda file: file.write(b"two"))
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o400


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    """Half-written content never shows, not even after Ctrl-C."""
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")

    def interrupted(file: IO[bytes]) -> None:
        file.write(b"half")
        raise error

    with pytest.raises(error):
        write_aside(path, interrupted)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
