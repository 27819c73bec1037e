"""Why a run stopped before its programs ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from desim.record import LANES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from desim.engine.rank import Rank
    from desim.plan.build import Plan

_MOST = 12


def explain_deadlock(plan: Plan, ranks: Sequence[Rank]) -> str:
    """Say which ranks wait at which task, and for whom."""
    names = list(plan.context.tables.names)
    lines = []
    for rank in ranks:
        for lane, (at, track) in enumerate(zip(rank.next, rank.tracks, strict=True)):
            if at < track.number:
                lines.append(_line(plan, rank, lane, names))
    shown = "\n".join(f"  {line}" for line in lines[:_MOST])
    rest = f"\n  and {len(lines) - _MOST} more" if len(lines) > _MOST else ""
    return f"the programs cannot finish (deadlock); these wait:\n{shown}{rest}"


def _line(plan: Plan, rank: Rank, lane: int, names: list[str]) -> str:
    track = rank.tracks[lane]
    at = rank.next[lane]
    task = track.first_task[at]
    program = rank.score.program
    representative = int(plan.folding.ranks.first[rank.index])
    micro_batch = int(program.micro_batch[task])
    what = f"{names[int(program.name[task])]} (micro-batch {micro_batch})"
    return (
        f"rank {representative}, lane {LANES[lane]}, task {task} {what}: {_reason(rank, lane, at)}"
    )


def _reason(rank: Rank, lane: int, at: int) -> str:
    track = rank.tracks[lane]
    waits = [(track.wait_lane[at], track.wait_count[at]), *track.more.get(at, ())]
    for needed, count in waits:
        if needed >= 0 and rank.done[needed] < count:
            return f"waits for task {count} of lane {LANES[needed]} ({rank.done[needed]} are done)"
    host = rank.host
    if track.first_task[at] >= host.limit:
        return f"is not issued: the host waits for task {host.count} of lane {LANES[host.lane]}"
    return "waits at its rendezvous for members that never arrive"
