"""Law: recomputation runs again what ran, whatever communication runs beside."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.jobs import PHASE, Played, job, play
from tests.laws.test_experts import MODEL

TENSOR = {"tensor": 2, "expert": 4, "expert_tensor": 1}
POLICIES: dict[str, dict[str, Any]] = {
    "chunked": {"overlap": {"tensor": "chunked", "tensor_chunks": 8}},
    "direct": {"overlap": {"tensor": "chunked", "tensor_exchange": "direct"}},
    "pipeline": {"overlap": {"tensor": "chunked", "tensor_exchange": "pipeline"}},
    "two_level": {"context": "two_level", "context_inside": 2},
    "contiguous": {"context": "ring", "context_balance": "contiguous"},
    "beside": {"experts": {"shared": "beside"}},
    "chunks": {"experts": {"chunks": 4}},
    "both": {"experts": {"shared": "beside", "chunks": 2, "load": [1, 2, 1, 1]}},
}


def played(name: str, recompute: str) -> Played:
    parallel = {"tensor": 2, "context": 4} if "context" in POLICIES[name] else TENSOR
    return play(
        job(
            workload__model={**MODEL, "layers": 8, "moe": {**MODEL["moe"], "dense_layers": 0}},
            workload__sequence_length=4096,
            parallel=parallel,
            policies={**POLICIES[name], "recompute": recompute},
        )
    )


def sums(played: Played, number: int, phase: str) -> tuple[float, float]:
    """FLOPs and bytes of collectives of a block in a phase of one program."""
    tables, program = played.plan.context.tables, played.plan.programs[number]
    rows = (program.phase == PHASE[phase]) & (program.layer == 1)
    ops, comms = list(tables.ops), list(tables.comms)
    flops = sum(ops[i].flops for i in program.op[rows & (program.op >= 0)])
    size = sum(comms[i].size_bytes for i in program.comm[rows & (program.comm >= 0)])
    return float(flops), float(size)


@pytest.mark.parametrize("name", POLICIES)
def test_a_block_runs_again_as_it_ran(name: str) -> None:
    again, once = played(name, "full"), played(name, "none")
    for number in range(len(again.plan.programs)):
        ran = sums(again, number, "forward")
        assert sums(again, number, "recompute") == pytest.approx(ran)
        assert sums(once, number, "forward") == pytest.approx(ran)
        assert sums(once, number, "recompute") == (0.0, 0.0)
        assert sums(once, number, "backward") == pytest.approx(sums(again, number, "backward"))
    peaks = [max(memory.peak_bytes for memory in p.record.memory) for p in (again, once)]
    assert peaks[0] < peaks[1]


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("recompute", ["none", "selective", "per_op", "full"])
def test_what_is_saved_is_freed(name: str, recompute: str) -> None:
    """Over a step every owner takes what it gives back."""
    for program in played(name, recompute).plan.programs:
        owners = np.bincount(program.memory_owner, weights=program.memory_bytes)
        scale = np.bincount(program.memory_owner, weights=np.abs(program.memory_bytes))
        assert np.abs(owners) == pytest.approx(0.0, abs=1e-9 * scale.max())
