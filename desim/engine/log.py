"""What a part of the job did in a stretch of time, without when: for two stretches to compare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from desim.engine.devices import PIECE
from desim.engine.rank import MEETING

if TYPE_CHECKING:
    from array import array
    from collections.abc import Sequence

    from desim.engine.rank import Rank
    from desim.engine.transfers import Transfer

_MOVED = 4


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the logs: their lengths by rank, and the kernels before it."""

    lengths: tuple[tuple[int, ...], ...]
    moved: int
    kernels: tuple[int, ...]


class Log:
    """The logs of some ranks: runs of kernels, collectives, bytes moved.

    `ends[rank]` collects when runs of kernels ended; `moved` is the player's.
    """

    def __init__(
        self, ranks: Sequence[Rank], ends: Sequence[array[int]], moved: array[int]
    ) -> None:
        self._ranks = ranks
        self._ends = [ends[rank.index] for rank in ranks]
        self._moved = moved
        ports = [port for rank in ranks for port in rank.ports if port is not None]
        self._transfers: dict[int, Transfer] = {port[1].number: port[1] for port in ports}

    def place(self, kernels: Sequence[int]) -> Place:
        """The place after all that was logged; `kernels` are counts that others are relative to."""
        lengths = [
            (len(rank.device.pieces), len(ends), *map(len, rank.logs))
            for rank, ends in zip(self._ranks, self._ends, strict=True)
        ]
        return Place(tuple(lengths), len(self._moved), tuple(kernels))

    def between(self, first: Place, last: Place) -> tuple[Any, ...]:
        """What happened from one place to another.

        Of every rank, in which order its kernels and collectives began and ended, and under which
        loads kernels ran and what was left of them when that changed; how long and how fast each
        transfer's bytes moved; in which order transfers took their turns on a link.
        """
        ranks = [
            self._rank(number, first.lengths[number], last.lengths[number], first.kernels[number])
            for number in range(len(self._ranks))
        ]
        return (*ranks, *self._transfers_between(first.moved, last.moved))

    def _rank(
        self, number: int, first: Sequence[int], last: Sequence[int], kernels: int
    ) -> tuple[Any, ...]:
        rank = self._ranks[number]
        pieces = rank.device.pieces[first[0] : last[0]].tolist()
        what = [
            (time, 0, kernel - kernels, left, load)
            for time, kernel, left, load in zip(*_columns(pieces, PIECE), strict=True)
        ]
        what += ((time, 1, 0, 0, 0) for time in self._ends[number][first[1] : last[1]])
        for lane, log in enumerate(rank.logs):
            begin, end = first[2 + lane], last[2 + lane]
            what += (
                (time, 2, lane, at % MEETING, 0) for at, time in enumerate(log[begin:end], begin)
            )
        what.sort()
        return tuple(item[1:] for item in what)

    def _transfers_between(self, first: int, last: int) -> list[Any]:
        moved: dict[int, list[tuple[int, int]]] = {}
        turns: dict[int, list[tuple[int, int, int]]] = {}
        rows = self._moved[first:last].tolist()
        for number, start, end, rate in zip(*_columns(rows, _MOVED), strict=True):
            if number in self._transfers:
                moved.setdefault(number, []).append((end - start, rate))
                for link, _ in self._transfers[number].uses:
                    turns.setdefault(link, []).extend(((start, 1, number), (end, 0, number)))
        order = [(link, *(turn[1:] for turn in sorted(those))) for link, those in turns.items()]
        return [tuple((n, *those) for n, those in sorted(moved.items())), tuple(sorted(order))]


def _columns(values: list[int], width: int) -> list[list[int]]:
    return [values[column::width] for column in range(width)]
