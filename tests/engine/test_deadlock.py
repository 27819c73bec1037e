"""A program that cannot finish is reported with who waits for whom."""

from __future__ import annotations

import pytest

from desim.errors import DeadlockError
from desim.plan.schedules import SCHEDULES
from desim.plan.schedules.passes import Pass
from tests.jobs import job, play


def backward_first(stage: int, stages: int, micro_batches: int, chunks: int) -> list[Pass]:
    """A bad schedule: the first stage wants a gradient before it has sent anything."""
    del stages, micro_batches, chunks
    order = [Pass("forward", 0), Pass("backward", 0)]
    return order[::-1] if stage == 0 else order


@pytest.mark.parametrize("mode", ["blocking", "async"])
@pytest.mark.parametrize("fold", [True, False])
def test_a_bad_schedule(monkeypatch: pytest.MonkeyPatch, mode: str, fold: bool) -> None:
    monkeypatch.setitem(SCHEDULES, "1f1b", backward_first)
    scenario = job(
        cluster__devices=4,
        workload__global_batch=2,
        parallel={"pipeline": 2, "zero": 0},
        policies={"overlap": {"pipeline": mode}},
        run__fold=fold,
    )
    with pytest.raises(DeadlockError) as caught:
        play(scenario)
    text = str(caught.value)
    assert "deadlock" in text
    lines = text.splitlines()
    stuck = "waits at its rendezvous for members that never arrive"
    for rank, lane in ((0, "pp_recv_backward"), (2, "pp_recv_forward")):
        (line,) = [x for x in lines if f"rank {rank}, lane {lane}" in x]
        assert "micro-batch 0" in line
        assert stuck in line
    computing = [x for x in lines if "rank 0, lane compute" in x]
    assert len(computing) == 1
    assert "pp_recv_backward" in computing[0]


def test_a_long_list_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCHEDULES, "1f1b", backward_first)
    scenario = job(
        cluster__devices=16,
        parallel={"pipeline": 2, "zero": 0, "tensor": 2},
        workload__global_batch=4,
        run__fold=False,
    )
    with pytest.raises(DeadlockError, match=r"and \d+ more$") as caught:
        play(scenario)
    assert len(str(caught.value).splitlines()) < 20
