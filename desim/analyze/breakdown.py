"""The time of every rank class in one pass over the record, and its means over the job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from desim.analyze.accounting import EXPOSED, account, compute_by_kind, lane_busy, mean_share
from desim.record import PS_PER_S

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from desim.record import RankClass, Record


@dataclass(frozen=True, slots=True)
class ClassTime:
    """Times of one rank class in picoseconds: `account`, `lane_busy` and `compute_by_kind`."""

    rank_class: RankClass
    categories: Mapping[str, int]
    busy: Mapping[str, int]
    kinds: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Times of all rank classes, and what follows from them."""

    classes: tuple[ClassTime, ...]
    num_steps: int = 1

    @property
    def time_share(self) -> dict[str, float]:
        """Share of GPU time by category; sums to 1."""
        return mean_share((c.rank_class.count, c.categories) for c in self.classes)

    @property
    def stage_time_share(self) -> dict[str, dict[str, float]]:
        """Share of the GPU time of each pipeline stage by category."""
        stages = sorted({c.rank_class.stage for c in self.classes})
        return {
            str(stage): mean_share(
                (c.rank_class.count, c.categories)
                for c in self.classes
                if c.rank_class.stage == stage
            )
            for stage in stages
        }

    @property
    def communication(self) -> dict[str, dict[str, float]]:
        """Seconds per step of each lane that is used, mean over ranks: `total_s`, `exposed_s`.

        Lanes that share a category of exposed time (pp's, h2d and d2h) share an entry.
        """
        result: dict[str, dict[str, float]] = {}
        for lane, category in EXPOSED.items():
            total = self._mean_s([c.busy.get(lane, 0) for c in self.classes])
            if not total:
                continue
            entry = result.setdefault(category.removeprefix("exposed_"), {"total_s": 0.0})
            entry["total_s"] += total
            entry["exposed_s"] = self._mean_s([c.categories[category] for c in self.classes])
        return result

    @property
    def compute_by_kind(self) -> dict[str, float]:
        """Seconds of kernels per step by kind, mean over ranks, largest first."""
        kinds = {kind for c in self.classes for kind in c.kinds}
        means = {kind: self._mean_s([c.kinds.get(kind, 0) for c in self.classes]) for kind in kinds}
        return dict(sorted(means.items(), key=lambda item: (-item[1], item[0])))

    def _mean_s(self, times_ps: Sequence[int]) -> float:
        """Mean over all ranks and steps of a time given for each class."""
        counts = [c.rank_class.count for c in self.classes]
        total = sum(count * time for count, time in zip(counts, times_ps, strict=True))
        return total / sum(counts) / self.num_steps / PS_PER_S


def breakdown(record: Record) -> Breakdown:
    """Measure every rank class of a record, expanding the spans of one class at a time.

    `record.details["groups_across_stages"]` lists the groups with members on several stages,
    `record.details["undisturbed"]` is the record of the same job without disturbances, if any.
    """
    across = frozenset(record.details.get("groups_across_stages", ()))
    scheduled = _scheduled_waits(record.details.get("undisturbed"))
    classes = []
    for index, rank_class in enumerate(record.classes):
        spans = record.spans_of(index)
        window = rank_class.window_ps
        classes.append(
            ClassTime(
                rank_class,
                account(spans, window, across, scheduled.get(rank_class.stage)),
                lane_busy(spans, window),
                compute_by_kind(spans, window, record.kinds),
            )
        )
    return Breakdown(tuple(classes), record.num_steps)


def _scheduled_waits(undisturbed: Record | None) -> dict[int, NDArray[np.int64]]:
    """How long each span of a stage waits where nothing is disturbed."""
    waits: dict[int, NDArray[np.int64]] = {}
    if undisturbed is not None:
        for index, rank_class in enumerate(undisturbed.classes):
            if rank_class.stage not in waits:
                spans = undisturbed.spans_of(index)
                waits[rank_class.stage] = spans.start_ps - spans.ready_ps
    return waits
