"""A machine's own accelerator as a bench: clocks, a cold cache, the sustained clock.

Before every timed run a large GEMM keeps the device at the clock that its power cap leaves in
training, and a buffer larger than the L2 cache is written, so that operands come from memory. The
host only issues: it is ahead of the device while that runs, and events on the stream time the
kernel alone.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

from desim.calibrate.bench import Hardware, NotPossible
from desim.calibrate.cases import HOST_COPY
from desim.calibrate.torch_kernels import prepare

if TYPE_CHECKING:
    from collections.abc import Callable

    from desim.calibrate.cases import Case

    Run = Callable[[], object]

_FLUSH_BYTES = 512 * 2**20  # more than twice the largest L2 cache (126 MB on B200)
_HEAT_SIZES = (8192, 8192, 4096)  # about a millisecond on an H100
_FIRST_HEAT_S = 3.0
_TIMED_S, _FEWEST, _MOST = 0.3, 10, 100  # how long and how often a kernel is timed
_COLD_RUNS = 3  # libraries choose their kernels in the first ones


def find_hardware() -> Hardware | None:
    """Return what the driver says of the first accelerator, or None without one."""
    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_properties(0)
    count = torch.cuda.device_count()
    return Hardware(found.name, found.multi_processor_count, float(found.total_memory), count)


class TorchBench:
    """Kernels of PyTorch, timed on a CUDA device, or by the host's clock on the host."""

    def __init__(self, device: str = "cuda") -> None:
        """Heat the device up; `cpu` is for trying the kernels out, not for tables."""
        self._device = torch.device(device)
        self._cuda = self._device.type == "cuda"
        self.software = _versions(cuda=self._cuda)
        torch.manual_seed(0)
        size = _FLUSH_BYTES if self._cuda else 2**20
        self._flush = torch.empty(size, dtype=torch.uint8, device=self._device)
        m, n, k = _HEAT_SIZES if self._cuda else (64, 64, 64)
        wide = torch.bfloat16
        if self._cuda and not torch.cuda.is_bf16_supported(including_emulation=False):
            wide = torch.float16
        self._one = torch.randn(m, k, dtype=wide, device=self._device)
        self._other = torch.randn(k, n, dtype=wide, device=self._device)
        self._heat_up(_FIRST_HEAT_S if self._cuda else 0.0)

    def times_s(self, case: Case) -> list[float]:
        """Return the times of a case's runs; raises NotPossible where it cannot run here."""
        try:
            run = prepare(case, self._device)
            for _ in range(_COLD_RUNS):
                run()
            self._wait()
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            raise NotPossible("too large for the memory that is free") from None
        except (RuntimeError, NotImplementedError, TypeError, AttributeError) as error:
            if "CUDA error" in str(error):
                raise
            raise NotPossible(_why(case, error)) from None
        hot = case.op.kind != HOST_COPY
        (once_s,) = self._timed(run, 1, hot=hot)
        count = int(min(max(_TIMED_S / max(once_s, 1e-6), _FEWEST), _MOST))
        return self._timed(run, count, hot=hot)

    def _heat_up(self, seconds: float) -> None:
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            for _ in range(10):
                torch.mm(self._one, self._other)
            self._wait()

    def _timed(self, run: Run, count: int, *, hot: bool) -> list[float]:
        clock = _stream_s if self._cuda else _host_s
        return clock(run, lambda: self._before(hot=hot), count)

    def _before(self, *, hot: bool) -> None:
        if hot:
            torch.mm(self._one, self._other)
        self._flush.zero_()

    def _wait(self) -> None:
        if self._cuda:
            torch.cuda.synchronize(self._device)


def _stream_s(run: Run, before: Run, count: int) -> list[float]:
    """Seconds of each run between events on the current stream."""
    events: list[tuple[Any, Any]] = []
    for _ in range(count):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before()
        start.record()
        run()
        end.record()
        events.append((start, end))
    torch.cuda.synchronize()
    return [start.elapsed_time(end) * 1e-3 for start, end in events]


def _host_s(run: Run, before: Run, count: int) -> list[float]:
    """Seconds of each run by the host's clock."""
    times = []
    for _ in range(count):
        before()
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return times


def _why(case: Case, error: Exception) -> str:
    """Return a short reason that is the same for every size of a kernel."""
    kernel = " ".join(filter(None, (case.backend, case.op.name, case.op.dtype, case.op.variant)))
    first = (str(error).splitlines() or [""])[0]
    return f"{kernel}: {type(error).__name__}: {first[:80]}"


def _versions(*, cuda: bool) -> str:
    parts = [f"torch {torch.__version__}"]
    if cuda:
        parts += [f"CUDA {torch.version.cuda}", f"cuDNN {torch.backends.cudnn.version()}"]
    return " ".join(parts)
