"""Peak memory per pipeline stage, who owns it, and what would make it fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from desim.units import show

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from desim.record import Memory, RankClass, Record


@dataclass(frozen=True, slots=True)
class StagePeak:
    """The largest peak of any rank of a stage; `owners` holds bytes at that moment.

    `reserved_bytes` and `outside_bytes` are its allocator's and those outside of it, `needed_bytes`
    all that it takes of the device.
    """

    stage: int
    rank_class: RankClass
    peak_bytes: float
    task: str
    owners: dict[str, float]
    reserved_bytes: float
    outside_bytes: float
    needed_bytes: float


def owners_at_peak(memory: Memory) -> dict[str, float]:
    """Return the bytes of each owner at the moment of the peak, largest first, zeros left out."""
    column = memory.by_owner[:, memory.peak_index]
    found = {owner: float(size) for owner, size in zip(memory.owners, column, strict=True) if size}
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def stage_peaks(record: Record) -> list[StagePeak]:
    """Return the peak of every stage, in the order of stages; ties go to the lowest rank."""
    worst: dict[int, tuple[RankClass, Memory]] = {}
    for rank_class, memory in zip(record.classes, record.memory, strict=True):
        held = worst.get(rank_class.stage)
        if held is None or memory.peak_bytes > held[1].peak_bytes:
            worst[rank_class.stage] = (rank_class, memory)
    return [
        StagePeak(
            stage,
            found,
            memory.peak_bytes,
            memory.peak_task,
            owners_at_peak(memory),
            memory.reserved_bytes,
            memory.outside_bytes,
            memory.needed_bytes,
        )
        for stage, (found, memory) in sorted(worst.items())
    ]


def needed_by_stage(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return what each stage needs of a device by the contents of summary.json."""
    reserved = summary.get("peak_reserved_bytes", {})
    outside = summary.get("outside_memory_bytes", {})
    return {
        stage: max(peak, reserved.get(stage, 0.0)) + outside.get(stage, 0.0)
        for stage, peak in summary["peak_memory_bytes"].items()
    }


def sampled(memory: Memory, limit: int) -> NDArray[np.int64]:
    """Return at most about `limit` sample indices that keep the first, the last and each high.

    The samples are cut into equal runs; of each the one with the largest sum is kept.
    """
    total = memory.by_owner.sum(axis=0)
    if len(total) <= limit:
        return np.arange(len(total))
    width = -(-len(total) // limit)
    padded = np.full(-(-len(total) // width) * width, -np.inf)
    padded[: len(total)] = total
    runs = padded.reshape(-1, width)
    highest = runs.argmax(axis=1) + np.arange(len(runs)) * width
    return np.unique([0, *highest.tolist(), memory.peak_index, len(total) - 1])


def overflow_message(
    peak: StagePeak, capacity_bytes: float, savings_bytes: Mapping[str, float]
) -> str:
    """Say what does not fit, its largest owners, and the smallest of the changes that would fit.

    `savings_bytes` says for each possible change (as text) how much it takes off this peak.
    """
    excess = peak.needed_bytes - capacity_bytes
    largest = ", ".join(
        f"{name} {show(size, 'bytes')}" for name, size in list(peak.owners.items())[:3]
    )
    text = (
        f"stage {peak.stage} (rank {peak.rank_class.representative}) needs"
        f" {show(peak.needed_bytes, 'bytes')}, {show(excess, 'bytes')} more than the device holds"
        f" ({show(capacity_bytes, 'bytes')}), at {peak.task}: {largest}"
    )
    enough = sorted((saved, change) for change, saved in savings_bytes.items() if saved >= excess)
    if enough:
        return f"{text}; {enough[0][1]} would fit (saves {show(enough[0][0], 'bytes')})"
    return f"{text}; no single known change is enough"
