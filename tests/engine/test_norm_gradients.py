"""Gradients of norms under sequence parallelism: added up over the tensor group once a step."""

from __future__ import annotations

import pytest

from tests.jobs import BASE, job, play

HIDDEN, LAYERS = BASE["workload"]["model"]["hidden"], BASE["workload"]["model"]["layers"]


@pytest.mark.parametrize("sequence", [True, False])
def test_norm_gradients_are_added_up_once(sequence: bool) -> None:
    """Two norms a block and the last one, in fp32; without sequence parallelism every rank has seen
    all tokens."""
    parallel = {"tensor": 2, "sequence": sequence}
    played = play(job(workload__global_batch=16, parallel=parallel))
    if not sequence:
        assert "norm gradients" not in played.record.names
        return
    rows = played.rows(name="norm gradients", lane="tp")
    norms = 2 * LAYERS + 1
    scale = 2 if played.plan.scenario.workload.model.norm == "layer" else 1
    assert played.spans().size_bytes[rows].tolist() == [4.0 * norms * HIDDEN * scale]


def test_stages_add_up_their_own() -> None:
    played = play(job(parallel={"tensor": 2, "pipeline": 2}))
    sizes = [
        float(played.spans(stage).size_bytes[played.rows(stage, "norm gradients")].sum())
        for stage in (0, 1)
    ]
    assert sizes[1] - sizes[0] == sizes[0] / LAYERS
