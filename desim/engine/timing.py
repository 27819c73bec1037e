"""How long a program's kernels take, alone and beside communication."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from desim.record import PS_PER_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from desim.kernels.time import KernelTime

#: Streaming multiprocessors held by communication, and device memory taken, in parts per thousand.
Load = tuple[int, int]
ALONE: Load = (0, 0)
_THOUSAND = 1000
_KIND_BYTES = np.dtype(np.int32).itemsize
#: What kernels keep however much is held beside them.
_LEAST = 0.1


class KernelTimes:
    """The kernels of a plan as columns, and what they take under a load.

    A kernel whose math units have only SMs - held of the SMs left takes SMs / (SMs - held) times
    as long, one that has only a part of the memory bandwidth left takes as much longer; the longer
    of the two rules, plus the kernel's fixed part.
    """

    def __init__(self, times: Sequence[KernelTime], sms: int) -> None:
        self._compute = np.array([t.compute_s for t in times])
        self._memory = np.array([t.memory_s for t in times])
        self._floor = np.array([t.floor_s for t in times])
        self._sms = sms
        self._cache: dict[Load, NDArray[np.float64]] = {}

    def under(self, load: Load) -> NDArray[np.float64]:
        """Seconds of every kernel under `load`."""
        if load not in self._cache:
            held, memory = load
            left = max(1 - held / self._sms, _LEAST)
            bandwidth = max(1 - memory / _THOUSAND, _LEAST)
            busy = np.maximum(self._compute / left, self._memory / bandwidth)
            self._cache[load] = busy + self._floor
        return self._cache[load]


class Timing:
    """Integer times of one program's kernels on one kind of device.

    `speed` is the device's share of its normal speed, `factors` stretch each kernel (jitter).
    Kernels of one kind take equally long: those of one op, or with `factors` each its own kind.
    Ops from `computing` on stand for collectives (`inline.py`).
    """

    def __init__(
        self,
        kernels: KernelTimes,
        ops: NDArray[np.int32],
        speed: float,
        factors: NDArray[np.float64] | None = None,
        computing: int | None = None,
    ) -> None:
        self._kernels = kernels
        self._ops = ops
        self._speed = speed
        self._factors = factors
        self._kind = ops if factors is None else np.arange(len(ops), dtype=np.int32)
        self._kinds = self._kind.tobytes()
        self._waiting = ops >= (np.inf if computing is None else computing)
        self.mixed = bool(self._waiting.any())
        self._lengths: list[NDArray[np.int64]] = []
        self._sums: list[dict[bytes, list[int]]] = []
        self._number: dict[Load, int] = {}

    def number(self, load: Load) -> int:
        """Number of a load; the lengths of kernels under it are made when it is first met."""
        found = self._number.get(load)
        if found is None:
            found = self._number[load] = len(self._sums)
            self._lengths.append(self._length_of_kinds(load))
            self._sums.append({})
        return found

    def _length_of_kinds(self, load: Load) -> NDArray[np.int64]:
        """Duration of every kind of kernel under `load`, at least 1 ps."""
        scale = PS_PER_S / self._speed
        seconds = self._kernels.under(load)
        if self._factors is not None:
            seconds = seconds[self._ops] * self._factors
        return np.maximum(np.rint(seconds * scale), 1.0).astype(np.int64)

    def computes(self, kernel: int) -> bool:
        """Whether a kernel computes, and does not stand for a collective."""
        return not self._waiting[kernel]

    @property
    def loads(self) -> int:
        """How many loads have a number."""
        return len(self._sums)

    def durations(self, number: int, first: int = 0, stop: int | None = None) -> NDArray[np.int64]:
        """Duration of kernels `first` to `stop` (default: all) under load `number`."""
        return self._lengths[number][self._kind[first:stop]]

    def sums(self, number: int, first: int, stop: int) -> list[int]:
        """Running sum of the durations of kernels `first` to `stop` under load `number`.

        Entry k is the time before kernel first + k. Equal runs of kernels share their sums.
        """
        key = self._kinds[_KIND_BYTES * first : _KIND_BYTES * stop]
        made = self._sums[number]
        found = made.get(key)
        if found is None:
            found = made[key] = [0, *np.cumsum(self.durations(number, first, stop)).tolist()]
        return found
