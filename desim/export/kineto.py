"""The record in the form that PyTorch's profiler writes, for HolisticTraceAnalysis.

One file a rank class. What the reader needs (found by leaving things out, one at a time): the text
`"rank": 3` with its space, communication kernels named `ncclDevKernel_...`, a runtime row with a
unique correlation for every kernel, two or more `ProfilerStep#N` rows of which the last is dropped,
streams from 1, and correlations that need 32 bits (in a column of their smallest type it then puts
row numbers). The reader rounds times to microseconds unless HTA_DISABLE_NS_ROUNDING=1 is set.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from desim.analyze.choose import drawn_classes
from desim.export.files import write_aside
from desim.export.titles import group_size
from desim.record import LANES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from desim.record import Record, Spans

_HOST_PID = 1_000_000_000
_HOST_TID = 1
_LAUNCH_US = 1.0
_FIRST_CORRELATION = 1_000_000
_COLLECTIVES = {
    "all_reduce": "AllReduce",
    "all_gather": "AllGather",
    "reduce_scatter": "ReduceScatter",
    "all_to_all": "AllToAll",
    "broadcast": "Broadcast",
}
_COPIES = {"h2d": "Memcpy HtoD (Pinned -> Device)", "d2h": "Memcpy DtoH (Device -> Pinned)"}


def write_kineto(record: Record, folder: Path | str, max_classes: int = 64) -> list[Path]:
    """Write `rank<N>.pt.trace.json.gz` for each drawn rank class and return the paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for index in drawn_classes(record, max_classes):
        path = folder / f"rank{record.classes[index].representative}.pt.trace.json.gz"
        # The default separators keep the space after "rank": that the reader looks for.
        text = json.dumps(_trace(record, index))
        write_aside(path, gzip.compress(text.encode(), compresslevel=1, mtime=0))
        written.append(path)
    return written


def _trace(record: Record, index: int) -> dict[str, Any]:
    rank_class = record.classes[index]
    rank = rank_class.representative
    ranks = sum(other.count for other in record.classes)
    events = [
        {
            "ph": "M",
            "name": "process_name",
            "pid": _HOST_PID,
            "tid": 0,
            "ts": 0,
            "args": {"name": "host"},
        },
        {
            "ph": "M",
            "name": "process_name",
            "pid": rank,
            "tid": 0,
            "ts": 0,
            "args": {"name": f"GPU {rank}"},
        },
        *_steps(record.num_steps, rank_class.window_ps),
        *_kernels(record, record.spans_of(index), rank, rank_class.window_ps),
    ]
    return {
        "schemaVersion": 1,
        "displayTimeUnit": "ms",
        "distributedInfo": {"backend": "nccl", "rank": rank, "world_size": ranks},
        "traceEvents": events,
    }


def _steps(num_steps: int, window_ps: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """Yield a row for each measured step and an empty one, since the reader drops the last."""
    edges = np.linspace(*window_ps, num_steps + 1) / 1e6
    ends = [*edges[1:].tolist(), edges[-1] + 1.0]
    for step, (start, end) in enumerate(zip(edges.tolist(), ends, strict=True)):
        yield {
            "ph": "X", "cat": "user_annotation", "name": f"ProfilerStep#{step}",
            "pid": _HOST_PID, "tid": _HOST_TID, "ts": start, "dur": end - start, "args": {},
        }  # fmt: skip


def _kernels(
    record: Record, spans: Spans, rank: int, window_ps: tuple[int, int]
) -> Iterator[dict[str, Any]]:
    """Yield a runtime row and a kernel row for each span."""
    # Work that the host issued before the step would be left out by the reader.
    issued = (spans.issue_ps.clip(*window_ps) // 1000 / 1000).tolist()
    start_ns = (spans.start_ps + 500) // 1000
    length_ns = (spans.end_ps + 500) // 1000 - start_ns
    rows = zip(
        spans.lane.tolist(), spans.name.tolist(), spans.kind.tolist(), spans.group.tolist(),
        issued, start_ns.tolist(), length_ns.tolist(), strict=True,
    )  # fmt: skip
    for correlation, (lane, name, kind, group, issue, start, length) in enumerate(
        rows, _FIRST_CORRELATION
    ):
        copy = _COPIES.get(LANES[lane])
        call = "cudaMemcpyAsync" if copy else "cudaLaunchKernel"
        yield {
            "ph": "X", "cat": "cuda_runtime", "name": call,
            "pid": _HOST_PID, "tid": _HOST_TID, "ts": issue, "dur": _LAUNCH_US,
            "args": {"correlation": correlation},
        }  # fmt: skip
        yield {
            "ph": "X", "cat": "gpu_memcpy" if copy else "kernel",
            "name": copy or _kernel_name(LANES[lane], record.names[name], record.kinds[kind]),
            "pid": rank, "tid": lane + 1, "ts": start / 1000, "dur": length / 1000,
            "args": {"stream": lane + 1, "correlation": correlation, "device": rank,
                     **_about(record, LANES[lane], record.kinds[kind], group)},
        }  # fmt: skip


def _about(record: Record, lane: str, kind: str, group: int) -> dict[str, Any]:
    """What a kernel is: a collective's name and ranks as PyTorch writes them, else desim's kind."""
    if group < 0:
        return {"desim kind": kind} if lane == "compute" else {}
    size = group_size(record.groups[group])
    return {"Collective name": kind, **({"Group size": size} if size else {})}


def _kernel_name(lane: str, name: str, kind: str) -> str:
    """Return the name by which the reader tells computing from communicating."""
    if lane == "compute":
        # Names that contain Sync or Memcpy are not counted as computing.
        return name.replace("Sync", "sync").replace("Memcpy", "copy")
    return f"ncclDevKernel_{_COLLECTIVES.get(kind, 'SendRecv')}_{name.replace(' ', '_')}"
