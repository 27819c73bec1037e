"""Programs of ranks whose micro-batches hold documents of their own.

They differ from the programs of the expected documents in attention kernels alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from desim.models.documents import draw_packings, expected_packing
from desim.models.packing import repacked
from desim.spec.documents import are_drawn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from desim.models.op import Op, Packing
    from desim.plan.program import Program
    from desim.plan.tables import Tables
    from desim.spec.documents import Documents
    from desim.spec.scenario import Scenario

#: Apart from all other random numbers of the seed.
_STREAM = 0xD0C5


@dataclass(frozen=True, slots=True)
class Draws:
    """Documents of every micro-batch, for data-parallel ranks that differ: `packings[draw]`.

    Data-parallel rank d has draw d modulo their number. `expected` are those of the distribution.
    """

    packings: tuple[tuple[Packing, ...], ...]
    expected: Packing | None

    def of_replica(self, replica: NDArray[np.int64]) -> NDArray[np.int64]:
        """Draw of each data-parallel rank."""
        return replica % len(self.packings)

    def density(self, replicas: int) -> float:
        """Mean share of scores that documents leave, over all micro-batches of a step."""
        shares = np.array([[p.density for p in row] for row in self.packings])
        return float(shares[self.of_replica(np.arange(replicas))].mean())


def packing_of(scenario: Scenario) -> Packing | None:
    """Return the documents that every micro-batch is expected to hold; None: one in a sequence."""
    workload = scenario.workload
    if workload.documents is None or workload.model.family != "transformer":
        return None
    return expected_packing(workload.documents, workload.sequence_length, workload.micro_batch)


def draws_of(scenario: Scenario, replicas: int, micro_batches: int) -> Draws | None:
    """Draw the documents of a step; None where all micro-batches have those expected."""
    workload = scenario.workload
    if workload.documents is None or not are_drawn(scenario):
        return None
    number = min(replicas, workload.documents.replicas or replicas)
    shape, seed = (number, micro_batches), scenario.run.seed
    s, sequences = workload.sequence_length, workload.micro_batch
    return Draws(_drawn(workload.documents, s, shape, seed, sequences), packing_of(scenario))


@lru_cache(maxsize=1)
def _drawn(
    documents: Documents,
    sequence_length: int,
    shape: tuple[int, int],
    seed: int,
    sequences: int,
) -> tuple[tuple[Packing, ...], ...]:
    """The draws of a seed: a run plans with them, and counts what they leave of attention."""
    random = np.random.default_rng([seed, _STREAM])
    drawn = draw_packings(documents, sequence_length, shape, random, sequences)
    return tuple(map(tuple, drawn))


def attention_share(scenario: Scenario) -> float:
    """Share of the scores of whole sequences that a step's documents leave."""
    parallel, workload = scenario.parallel, scenario.workload
    assert isinstance(parallel.data, int), "a checked scenario has a number"
    micro_batches = workload.global_batch // (workload.micro_batch * parallel.data)
    draws = draws_of(scenario, parallel.data, micro_batches)
    if draws is not None:
        return draws.density(parallel.data)
    packing = packing_of(scenario)
    return packing.density if packing else 1.0


def with_draws(programs: Sequence[Program], tables: Tables, draws: Draws) -> tuple[Program, ...]:
    """Return all programs with the documents of each draw in turn."""
    micro_batches = len(draws.packings[0])
    ops = list(tables.ops)
    base = np.arange(len(ops), dtype=np.int32)
    found = []
    for row in draws.packings:
        # Tasks of no micro-batch (-1) meet the last row, which leaves kernels as they are.
        numbers = np.repeat(base[None, :], micro_batches + 1, axis=0)
        for number, op in enumerate(ops):
            if op.kind == "attention":
                numbers[:-1, number] = [tables.op(_with(op, draws, p)) for p in row]
        found += [_redrawn(program, numbers) for program in programs]
    return tuple(found)


def _with(op: Op, draws: Draws, packing: Packing) -> Op:
    return repacked(op, draws.expected, packing)


def _redrawn(program: Program, numbers: NDArray[np.int32]) -> Program:
    """A program whose kernel i is `numbers[micro-batch, i]`; unlike stretches are no repeats."""
    op = np.where(program.op >= 0, numbers[program.micro_batch, program.op], -1).astype(np.int32)
    known: dict[tuple[int, bytes], int] = {}
    rows = program.placements.tolist()
    kinds = [(template, op[first:end].tobytes()) for first, end, template in rows]
    place = np.array([known.setdefault(kind, len(known)) for kind in kinds], dtype=np.int64)
    again = np.bincount(place, minlength=1)[place] > 1
    placements = np.column_stack([program.placements[:, :2], place])[again]
    return replace(program, op=op, placements=placements)
