"""What the clock can count: 64 bits of picoseconds, 106 days."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from desim.errors import Mistake, SpecError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from desim.plan.build import Plan
    from desim.plan.program import Program

#: Far longer than any step, and far enough from the clock's end for everything that adds to it.
_LONGEST_S = 1e5


def require_countable(plan: Plan) -> None:
    """Refuse a plan whose steps last longer than the clock can count; raises SpecError."""
    mistakes = []
    kernels_s = _kernels_s(plan)
    if not kernels_s <= _LONGEST_S:
        mistakes.append(_mistake("the kernels of one rank", kernels_s))
    name, transfer_s = _longest_transfer(plan)
    if not transfer_s <= _LONGEST_S:
        mistakes.append(_mistake(f"one {name}", transfer_s))
    if mistakes:
        raise SpecError(mistakes)


def _kernels_s(plan: Plan) -> float:
    """Seconds of the longest program's kernels on the slowest device."""
    alone = np.array([*(time.alone_s for time in plan.kernel_times), 0.0])
    longest = max(_seconds(program, alone) for program in plan.programs)
    return longest / float(plan.disturbed.compute.min())


def _seconds(program: Program, alone: NDArray[np.float64]) -> float:
    """Seconds of a program's kernels, with those of the periods that it leaves out."""
    seconds = float(alone[program.op].sum())
    for repeat in program.repeats:
        period = program.op[repeat.task(0) : repeat.task(1)]
        seconds += program.left_out * float(alone[period].sum())
    return seconds


def _longest_transfer(plan: Plan) -> tuple[str, float]:
    beside = plan.scenario.cluster.system.device.communication.beside_compute
    longest = ("", 0.0)
    for comm, use in zip(plan.context.tables.comms, plan.wiring.uses, strict=True):
        bytes_s = comm.size_bytes * float(use.seconds_per_byte.max(initial=0.0))
        seconds = bytes_s / beside + float(use.latency_s.max(initial=0.0))
        if not seconds <= longest[1]:
            longest = (comm.collective, seconds)
    return longest


def _mistake(what: str, seconds: float) -> Mistake:
    rule = f"{what} would take {seconds:.3g} s; desim plays at most {_LONGEST_S:.0e} s"
    return Mistake("", rule, hint="look for a size that is too large or a rate that is too small")
