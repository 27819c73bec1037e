"""Gzip text while the next piece of it is still being made."""

from __future__ import annotations

import struct
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

_LEVEL = 1
_WORKERS = 2
_CHUNK = 4 << 20
# RFC 1952: magic, deflate, no flags, no time (equal runs give equal bytes), fastest, any system.
_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\xff"


class GzipStream:
    """A gzip file written from text, compressed in other threads; a context manager.

    Pieces are deflated apart and flushed to a byte boundary, so that they join into one stream.
    """

    def __init__(self, file: IO[bytes]) -> None:
        """Write to `file`, which stays open."""
        self._file = file
        self._pool = ThreadPoolExecutor(_WORKERS)
        self._pieces: list[Future[bytes]] = []
        self._checksum = 0
        self._size = 0

    def __enter__(self) -> Self:
        """Write the header."""
        self._file.write(_HEADER)
        return self

    def write(self, text: str) -> None:
        """Append text."""
        data = memoryview(text.encode())
        self._checksum = zlib.crc32(data, self._checksum)
        self._size += len(data)
        for begin in range(0, len(data), _CHUNK):
            piece = self._pool.submit(_deflate, data[begin : begin + _CHUNK], zlib.Z_SYNC_FLUSH)
            self._pieces.append(piece)
        while self._pieces and self._pieces[0].done():
            self._file.write(self._pieces.pop(0).result())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write what is still being compressed and the checksum; after an error, nothing."""
        if kind is None:
            for piece in self._pieces:
                self._file.write(piece.result())
            self._file.write(_deflate(memoryview(b""), zlib.Z_FINISH))
            self._file.write(struct.pack("<II", self._checksum, self._size & 0xFFFFFFFF))
        self._pool.shutdown(cancel_futures=True)


def _deflate(data: memoryview, flush: int) -> bytes:
    deflater = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return deflater.compress(data) + deflater.flush(flush)
