"""Parts of a job that go their own way while micro-batches repeat.

Data-parallel replicas meet at the ends of a step; between them each plays its micro-batches by
itself. Two ranks belong to one part where a collective among the periods joins them, or where
another's could load a link that one of theirs needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from desim.engine.rank import Rank


def parts_of(ranks: Sequence[Rank]) -> list[list[Rank]]:
    """Ranks by the part that they belong to, in order of their first.

    A group that takes part in no period loads no link until all its members have left theirs: it
    joins only those ranks whose links it loads and of which none is a member.
    """
    joined = _Joined(len(ranks))
    met = [_met_in_periods(rank) for rank in ranks]
    members: dict[int, set[int]] = {}
    users: dict[int, set[int]] = {}
    for rank in ranks:
        for group, transfer, _ in (port for port in rank.ports if port is not None):
            members.setdefault(group.number, set()).add(rank.index)
            for link, _ in transfer.uses:
                users.setdefault(link, set()).add(group.number)
    for groups, _ in met:
        for group_number in groups:
            joined.join(members[group_number])
    while _join_users(joined, met, members, users):
        pass
    parts: dict[int, list[Rank]] = {}
    for rank in ranks:
        parts.setdefault(joined.of(rank.index), []).append(rank)
    return list(parts.values())


def _met_in_periods(rank: Rank) -> tuple[set[int], set[int]]:
    """Groups that the rank meets in its periods and the links that it loads there."""
    program = rank.score.program
    comms = [program.comm[r.task(0) : r.task(r.periods)] for r in program.repeats]
    groups: set[int] = set()
    links: set[int] = set()
    for number in np.unique(np.concatenate(comms)).tolist():
        port = rank.ports[number] if number >= 0 else None
        if port is not None:
            groups.add(port[0].number)
            links.update(link for link, _ in port[1].uses)
    return groups, links


def _join_users(
    joined: _Joined,
    met: Sequence[tuple[set[int], set[int]]],
    members: dict[int, set[int]],
    users: dict[int, set[int]],
) -> bool:
    """Join ranks with groups of other parts that load their links; whether any were joined."""
    seen: set[tuple[int, int]] = set()
    changed = False
    for index, (_, links) in enumerate(met):
        for group in set().union(*(users[link] for link in links)) if links else ():
            here = joined.of(index)
            if (here, group) in seen:
                continue
            seen.add((here, group))
            if all(joined.of(member) != here for member in members[group]):
                joined.join({index, *members[group]})
                changed = True
    return changed


class _Joined:
    """Disjoint sets of numbers."""

    def __init__(self, number: int) -> None:
        self._to = list(range(number))

    def of(self, number: int) -> int:
        """The set of a number, named by its lowest."""
        while self._to[number] != number:
            self._to[number] = number = self._to[self._to[number]]
        return number

    def join(self, numbers: Iterable[int]) -> None:
        """Make one set of those of `numbers`."""
        roots = {self.of(number) for number in numbers}
        lowest = min(roots)
        for root in roots:
            self._to[root] = lowest
