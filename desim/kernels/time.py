"""What a kernel costs when it runs alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Source = Literal["measured", "extrapolated", "modelled"]
SOURCES: tuple[Source, ...] = get_args(Source)


@dataclass(frozen=True, slots=True)
class KernelTime:
    """The parts of a kernel's time on an undisturbed device, in seconds.

    `compute_s` is what the math units need, `memory_s` what the device memory needs; they overlap.
    `floor_s` is paid by every kernel (start, drain, tail).
    """

    compute_s: float
    memory_s: float
    floor_s: float
    source: Source = "modelled"

    @property
    def alone_s(self) -> float:
        """Duration with nothing beside it."""
        return max(self.compute_s, self.memory_s) + self.floor_s
