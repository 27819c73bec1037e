"""Rates over time on the links of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from desim.engine.links import RATE_UNIT
from desim.network.topology import LINK_KINDS
from desim.record import LinkClass

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from desim.engine.play import Player
    from desim.engine.transfers import Transfer
    from desim.plan.build import Plan


def link_classes(
    plan: Plan, player: Player, transfers: list[Transfer], window_ps: tuple[int, int]
) -> tuple[LinkClass, ...]:
    """Rate over time, in the measured window, on one link of each class that was loaded."""
    moved = np.array(player.moved, dtype=np.int64).reshape(-1, 4)
    moved[:, 1:3] = moved[:, 1:3].clip(*window_ps)
    moved = moved[moved[:, 2] > moved[:, 1]]
    topology, links = plan.wiring.topology, plan.folding.links
    by_link: dict[int, list[tuple[int, float]]] = {}
    for transfer in transfers:
        for link, use in transfer.uses:
            capacity = float(topology.capacity_bytes_per_s[links.first[link]])
            by_link.setdefault(link, []).append(
                (transfer.number, use * capacity / transfer.rate_bytes_per_s)
            )
    result = []
    for link, loads in sorted(by_link.items()):
        per_byte = np.zeros(len(transfers))
        for number, load in loads:
            per_byte[number] = load
        rows = moved[per_byte[moved[:, 0]] > 0]
        if len(rows):
            result.append(_link_class(plan, link, rows, per_byte))
    return tuple(result)


def _link_class(
    plan: Plan, link: int, rows: NDArray[np.int64], per_byte: NDArray[np.float64]
) -> LinkClass:
    topology, links = plan.wiring.topology, plan.folding.links
    first = int(links.first[link])
    rate = rows[:, 3] / RATE_UNIT * per_byte[rows[:, 0]]
    times, at = np.unique(np.concatenate([rows[:, 1], rows[:, 2]]), return_inverse=True)
    change = np.zeros(len(times))
    np.add.at(change, at[: len(rows)], rate)
    np.add.at(change, at[len(rows) :], -rate)
    level = np.cumsum(change)
    level[np.abs(level) < 1e-6 * max(rate.max(), 1.0)] = 0.0
    return LinkClass(
        name=topology.name(first),
        kind=LINK_KINDS[int(topology.kind[first])],
        count=int(links.count[link]),
        capacity_bytes_per_s=float(topology.capacity_bytes_per_s[first]),
        time_ps=times,
        rate_bytes_per_s=level,
    )
