"""Time folding: what the periods of micro-batches that a plan leaves out would have taken.

What happens next depends on the state of the engine and on what the programs say from there on.
Where the state after one period is the state before it, moved on by a period in every program and
in time, and no lane has looked past the periods, those left out would each have ended in that state
again: the whole job does the same, later by their length, and nothing is approximated.

Where an approximation will do there is another way. Often the state does not repeat to the
picosecond although the pace does: a stage with a bit less to do gets further ahead with every
micro-batch, and nobody ever waits for it. There the periods left out are taken to be as long as
the last one was, if those before it agree with it on all ranks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from desim.engine.steady import Look, SteadyPlayer

#: Periods of ranks that differ by less than this share agree.
TOLERANCE = 1e-3
#: So many of the last periods (or cycles of periods) have to agree.
_AGREEING = 3


def left_out_ps(player: SteadyPlayer, steps: Iterable[int], *, at_pace: bool) -> int | None:
    """Time of all periods left out of `steps`; None where a step never came to repeat itself.

    Exact where the state of the engine repeats; else, where time `at_pace` will do, within
    `TOLERANCE` of it if nothing that is left out would have changed the pace.
    """
    left_out = player.ranks[0].score.program.left_out
    total = 0
    for step in range(len(player.looks)):
        length = _repeating(player, step, left_out)
        if length is None and at_pace:
            length = _steady(player, step, left_out)
        if length is None:
            return None
        if step in steps:
            total += length
    return total


def _repeating(player: SteadyPlayer, step: int, left_out: int) -> int | None:
    """Time of the periods left out, where the state after some of them is the state before."""
    looks = player.looks[step]
    for at in reversed(range(len(looks))):
        for periods in range(1, at + 1):
            first, second = looks[at - periods], looks[at]
            if left_out % periods or first.state is None or first.state != second.state:
                continue
            if _hosts_agree(player, first, second):
                return left_out // periods * (second.now_ps - first.now_ps)
    return None


def _hosts_agree(player: SteadyPlayer, first: Look, second: Look) -> bool:
    """Whether hosts are as far ahead as before, or so far that it made no difference.

    A host that gets further ahead with each period must not have held the device up from the first
    of these periods until it next waits for the device, from when on its past is forgotten.
    """
    for rank, before, after in zip(player.ranks, first.ahead_ps, second.ahead_ps, strict=True):
        if after < before:
            return False
        if after > before:
            joined = next((t for t in rank.host.joined if t > second.now_ps), None)
            until = player.clock._now if joined is None else joined
            if any(first.now_ps <= t <= until for t in rank.host.late):
                return False
    return True


def _steady(player: SteadyPlayer, step: int, left_out: int) -> int | None:
    """Time of the periods left out at the pace of the last ones, where all ranks keep it."""
    looks = [look for look in player.looks[step] if look.state is not None]
    if len(looks) < 2 or not _hosts_keep_up(looks, left_out):
        return None
    last_ps = looks[-1].now_ps
    ends_ps = [[end for end in ends if end <= last_ps] for ends in player.ends_ps[step]]
    most = (min(map(len, ends_ps)) - 1) // _AGREEING
    for periods in range(1, most + 1):
        cycles = [length for ends in ends_ps for length in _last_cycles(ends, periods)]
        if max(cycles) - min(cycles) <= TOLERANCE * min(cycles):
            return round(left_out / periods * max(_last_cycles(e, periods)[0] for e in ends_ps))
    return None


def _last_cycles(ends_ps: Sequence[int], periods: int) -> list[int]:
    """Lengths of the last cycles of `periods` periods of a rank."""
    ends = [ends_ps[-1 - periods * back] for back in range(_AGREEING + 1)]
    return [late - early for late, early in zip(ends, ends[1:], strict=False)]


def _hosts_keep_up(looks: Sequence[Look], left_out: int) -> bool:
    """Whether every host keeps the pace, or is still a period ahead after those left out."""
    first, last = looks[0], looks[-1]
    periods = len(looks) - 1
    played_ps = last.now_ps - first.now_ps
    return all(
        before - after <= TOLERANCE * played_ps
        or after * periods - (before - after) * left_out > played_ps
        for before, after in zip(first.ahead_ps, last.ahead_ps, strict=True)
    )
