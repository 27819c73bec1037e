"""Folding: colours of ranks, groups and links that nothing in the job tells apart."""

from __future__ import annotations

import numpy as np
import pytest

from desim.plan.fold import Edges, Folding, fold

SLOT_0, SLOT_1 = 0, 1


def edges(rows: list[tuple[int, int, int]]) -> Edges:
    columns = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    return Edges(columns[0], columns[1], columns[2])


def fold_ring(slots: list[tuple[int, int]], start: list[int] | None = None) -> Folding:
    """Fold rings of pair groups: group i joins rank i and the next rank of its ring of four.

    `slots[i]` are the slots by which rank i meets group i and the group before it.
    """
    number = len(slots)
    rows = []
    for rank, (own, before) in enumerate(slots):
        ring, place = divmod(rank, 4)
        rows.append((rank, rank, own))
        rows.append((rank, 4 * ring + (place - 1) % 4, before))
    colours = np.array(start or [0] * number, dtype=np.int64)
    nothing = np.zeros(0, dtype=np.int64)
    zeros = np.zeros(number, dtype=np.int64)
    return fold(colours, zeros, nothing, edges(rows), edges([]))


AROUND = [(SLOT_0, SLOT_1)] * 4
"""Every rank goes to its own group first: each group has a member that comes late. A deadlock."""
ALTERNATING = [(SLOT_0, SLOT_1), (SLOT_1, SLOT_0)] * 2
"""Ranks 0 and 1 first meet at group 0, ranks 2 and 3 at group 2. No deadlock."""


def test_the_orientation_of_a_ring_is_seen() -> None:
    """Four ranks, each "slot 0 then slot 1": without labels both rings are the same graph."""
    around, alternating = fold_ring(AROUND), fold_ring(ALTERNATING)
    assert around.ranks.number == alternating.ranks.number == 1
    assert around.groups.number == 1
    assert alternating.groups.of.tolist() == [0, 1, 0, 1]


def test_rings_of_both_orientations_do_not_fold_into_each_other() -> None:
    both = fold_ring(AROUND + ALTERNATING)
    assert both.ranks.of.tolist() == [0] * 4 + [1] * 4
    assert set(both.groups.of[:4]).isdisjoint(both.groups.of[4:])


def test_one_slow_rank_tells_its_ring_apart_by_distance() -> None:
    """The slow one, its two neighbours (told apart by their slots), and the one opposite."""
    folding = fold_ring(AROUND + AROUND, [1, 0, 0, 0, 0, 0, 0, 0])
    assert folding.ranks.of.tolist() == [0, 1, 2, 3, 4, 4, 4, 4]
    mirrored = fold_ring(ALTERNATING, [1, 0, 1, 0])
    assert mirrored.ranks.of.tolist() == [0, 1, 0, 1]


def test_links_tell_groups_and_ranks_apart() -> None:
    """Two groups of two ranks; the link of the second is another kind, or carries another load."""
    membership = edges([(0, 0, 0), (1, 0, 0), (2, 1, 0), (3, 1, 0)])
    ranks, groups = np.zeros(4, dtype=np.int64), np.zeros(2, dtype=np.int64)
    same = edges([(0, 0, 7), (1, 1, 7)])
    links = np.zeros(2, dtype=np.int64)
    assert fold(ranks, groups, links, membership, same).ranks.number == 1
    assert fold(ranks, groups, np.array([0, 1]), membership, same).ranks.number == 2
    other = edges([(0, 0, 7), (1, 1, 8)])
    assert fold(ranks, groups, links, membership, other).ranks.number == 2


def test_a_shared_link_is_counted_by_its_users() -> None:
    """A link that two groups of a colour load is not one that three load."""
    membership = edges([(i, i, 0) for i in range(5)])
    loads = edges([(0, 0, 1), (1, 0, 1), (2, 1, 1), (3, 1, 1), (4, 1, 1)])
    zeros = np.zeros(5, dtype=np.int64)
    folding = fold(zeros, zeros, np.zeros(2, dtype=np.int64), membership, loads)
    assert folding.ranks.of.tolist() == [0, 0, 1, 1, 1]
    assert folding.links.number == 2


@pytest.mark.parametrize("number", [1, 6, 40])
def test_colours_are_numbered_by_their_first_member(number: int) -> None:
    generator = np.random.default_rng(number)
    start = generator.integers(0, 4, number)
    nothing = np.zeros(0, dtype=np.int64)
    colours = fold(start, nothing, nothing, edges([]), edges([])).ranks
    assert colours.count.sum() == number
    assert (np.diff(colours.first) > 0).all()
    assert (colours.of[colours.first] == np.arange(colours.number)).all()
    for colour in range(colours.number):
        members = np.flatnonzero(colours.of == colour)
        assert members[0] == colours.first[colour]
        assert len(members) == colours.count[colour]
        assert len(set(start[members])) == 1
    assert colours.number == len(set(start))
