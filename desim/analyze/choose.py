"""Which rank classes are drawn when there are too many to draw them all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from desim.record import Record


def drawn_classes(record: Record, limit: int) -> list[int]:
    """Return at most `limit` classes to draw, by stage and rank.

    The largest class of every stage comes first (evenly spread stages when even those are too
    many), then the smallest classes: the ranks that are unlike the others.
    """
    classes = record.classes
    order = range(len(classes))
    if len(classes) > limit:
        largest: dict[int, int] = {}
        for index in sorted(order, key=lambda i: (-classes[i].count, classes[i].representative)):
            largest.setdefault(classes[index].stage, index)
        main = [largest[stage] for stage in sorted(largest)]
        if len(main) >= limit:
            spread = np.unique(np.linspace(0, len(main) - 1, limit).round().astype(int))
            return [main[i] for i in spread]
        rest = sorted(
            set(order) - set(main), key=lambda i: (classes[i].count, classes[i].representative)
        )
        return _sorted(record, main + rest[: limit - len(main)])
    return _sorted(record, list(order))


def _sorted(record: Record, chosen: list[int]) -> list[int]:
    classes = record.classes
    return sorted(chosen, key=lambda i: (classes[i].stage, classes[i].representative))


def class_label(record: Record, index: int) -> str:
    """Return the name of a rank class as it is shown: its stage, representative and size."""
    rank_class = record.classes[index]
    return f"stage {rank_class.stage}: rank {rank_class.representative} (x{rank_class.count})"
