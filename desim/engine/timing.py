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
    """

    def __init__(
        self,
        kernels: KernelTimes,
        ops: NDArray[np.int32],
        speed: float,
        factors: NDArray[np.float64] | None = None,
    ) -> None:
        self._kernels = kernels
        self._ops = ops
        self._speed = speed
        self._factors = factors
        self.loads: list[Load] = []
        self._number: dict[Load, int] = {}
        self._sums: list[list[int]] = []

    def durations(self, load: Load) -> NDArray[np.int64]:
        """Duration of every kernel of the program under `load`, at least 1 ps."""
        scale = PS_PER_S / self._speed
        seconds = self._kernels.under(load)
        if self._factors is None:
            whole = np.maximum(np.rint(seconds * scale), 1.0).astype(np.int64)
            return whole[self._ops] if len(whole) else np.zeros(0, np.int64)
        stretched = seconds[self._ops] * self._factors * scale
        return np.maximum(np.rint(stretched), 1.0).astype(np.int64)

    def number(self, load: Load) -> int:
        """Number of a load; its sums are made when it is first met."""
        found = self._number.get(load)
        if found is None:
            found = self._number[load] = len(self.loads)
            self.loads.append(load)
            ends = np.concatenate([[0], np.cumsum(self.durations(load))])
            self._sums.append(ends.tolist())
        return found

    def sums(self, number: int) -> list[int]:
        """Running sum of the durations under load `number`: entry k is the time before kernel k."""
        return self._sums[number]
