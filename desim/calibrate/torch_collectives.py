"""Collectives of the GPUs of one node, as torch.distributed issues them through NCCL."""

from __future__ import annotations

import csv
import socket
import time
import warnings
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed
import torch.multiprocessing

from desim.export.files import drop_cut_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Wanted = list[tuple[str, int, int]]

#: Columns of validation/collectives.csv, which `desim calibrate collectives` reads.
COLUMNS = (
    "gpu", "op", "num_gpus", "nodes", "dtype", "bytes", "time_ms", "busbw_GBps", "source", "notes",
)  # fmt: skip
_OPS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
_SIZES = tuple(2**power for power in range(13, 31))  # 8 KiB to 1 GiB
_TIMED_S, _FEWEST, _MOST = 0.2, 10, 200
_ELEMENT_BYTES = 2  # bf16
#: Bytes that cross a link over those of the tensor, for n ranks (nccl-tests, PERFORMANCE.md).
_BUS = {
    "all_reduce": lambda n: 2 * (n - 1) / n,
    "all_gather": lambda n: (n - 1) / n,
    "reduce_scatter": lambda n: (n - 1) / n,
    "all_to_all": lambda n: (n - 1) / n,
}


def wanted_collectives(count: int, file: Path) -> Wanted:
    """Return (op, ranks, bytes) of those that `file` does not hold, for 2, 4, ... `count` GPUs."""
    known = set()
    if file.is_file():
        drop_cut_line(file)
    if file.is_file():
        with file.open(newline="", encoding="utf-8") as lines:
            rows = csv.DictReader(lines)
            known = {(r["op"], int(r["num_gpus"]), int(float(r["bytes"]))) for r in rows}
    ranks = [n for n in (2, 4, 8, 16, 32, 64) if n <= count]
    return [case for case in product(_OPS, ranks, _SIZES) if case not in known]


def measure_collectives(
    gpu: str, wanted: Wanted, file: Path, count: int, done: Callable[[float], None]
) -> None:
    """Measure `wanted` on processes of their own, a row on disk for each as it is measured."""
    new = not file.is_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    context = torch.multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = torch.multiprocessing.start_processes(
        _rank, (count, _free_port(), wanted, queue), nprocs=count, join=False, daemon=True
    )
    version = ".".join(map(str, torch.cuda.nccl.version()))
    source = f"desim calibrate, torch {torch.__version__}, NCCL {version}"
    with file.open("a", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        for op, ranks, size in wanted:
            seconds = _next(queue, workers)
            bus = _BUS[op](ranks) * size / seconds / 1e9
            measured = (f"{seconds * 1e3:.5g}", f"{bus:.4g}")
            row = (gpu, op, ranks, 1, "bf16", size, *measured, source, "")
            writer.writerow(dict(zip(COLUMNS, row, strict=True)))
            lines.flush()
            done(1.0)
    while not workers.join():
        pass


def _next(queue: Any, workers: Any) -> float:
    """Return the next time; a worker that failed raises here."""
    while queue.empty():
        workers.join(timeout=0.05)
    return float(queue.get())


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _rank(rank: int, count: int, port: int, wanted: Wanted, queue: Any) -> None:
    """Take part in every collective whose ranks include this one; rank 0 reports the times."""
    # PyTorch 2.13 renames what older versions only know by the old name.
    warnings.simplefilter("ignore", FutureWarning)
    torch.cuda.set_device(rank)
    torch.distributed.init_process_group(
        "nccl", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=count
    )
    sizes = sorted({ranks for _, ranks, _ in wanted})
    groups = {ranks: torch.distributed.new_group(list(range(ranks))) for ranks in sizes}
    for op, ranks, size in wanted:
        if rank < ranks:
            seconds = _time_one(_call(op, size, ranks, groups[ranks]), groups[ranks])
            if rank == 0:
                queue.put(seconds)
        torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _call(op: str, size: int, ranks: int, group: Any) -> Callable[[], object]:
    """Return a call of the collective; `size` is the whole tensor, as `models.op.Comm` counts."""
    whole = torch.randn(size // _ELEMENT_BYTES, device="cuda").to(torch.bfloat16)
    part = torch.empty(size // _ELEMENT_BYTES // ranks, device="cuda", dtype=torch.bfloat16)
    other = torch.empty_like(whole)
    distributed = torch.distributed
    calls: dict[str, Callable[[], object]] = {
        "all_reduce": lambda: distributed.all_reduce(whole, group=group),
        "all_gather": lambda: distributed.all_gather_into_tensor(whole, part, group=group),
        "reduce_scatter": lambda: distributed.reduce_scatter_tensor(part, whole, group=group),
        "all_to_all": lambda: distributed.all_to_all_single(other, whole, group=group),
    }
    return calls[op]


def _time_one(run: Callable[[], object], group: Any) -> float:
    """Return the mean time of many calls in a row, as often on every rank as rank 0 says."""
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    began = time.perf_counter()
    run()
    torch.cuda.synchronize()
    once_s = max(time.perf_counter() - began, 1e-6)
    wished = float(min(max(_TIMED_S / once_s, _FEWEST), _MOST))
    count = torch.tensor([wished], device="cuda")
    torch.distributed.broadcast(count, 0, group=group)
    times = int(count.item())
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.distributed.barrier(group=group)
    start.record()
    for _ in range(times):
        run()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) * 1e-3 / times
