"""Rendezvous: where the members of a group meet for each of their collectives."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from desim.engine.rank import Rank


class Group:
    """A group colour, at which the nth arrivals of its `need` representatives meet.

    `waiting` holds the members (rank, lane) that have arrived at each meeting.
    """

    __slots__ = ("_size", "need", "number", "waiting")

    def __init__(self, number: int, need: int) -> None:
        self.number = number
        self.need = need
        self.waiting: dict[int, list[tuple[Rank, int]]] = {}
        self._size: dict[int, int] = {}

    def arrive(
        self, turn: int, rank: Rank, lane: int, size_bytes: int
    ) -> list[tuple[Rank, int]] | None:
        """Add a member to its nth meeting; return all of them once the last is there."""
        present = self.waiting.setdefault(turn, [])
        present.append((rank, lane))
        assert self._size.setdefault(turn, size_bytes) == size_bytes, "members meet for one size"
        if len(present) < self.need:
            return None
        del self.waiting[turn], self._size[turn]
        return present
