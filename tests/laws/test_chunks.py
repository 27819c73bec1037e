"""Law: cutting a collective in chunks moves the same bytes beside the same work."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from desim.record import PS_PER_S
from tests.jobs import BASE, LANE, Played, instant, job, play, with_system

MODEL = {**BASE["workload"]["model"], "layers": 2}
RANKS = 4


def scenario(tensor: str, ranks: int = RANKS) -> Any:
    return job(
        workload__model=MODEL,
        cluster__devices=ranks,
        parallel={"tensor": ranks, "zero": 0},
        policies={"overlap": {"tensor": tensor}},
    )


def sent(played: Played) -> float:
    """Bytes that a rank sends to its tensor group in a step."""
    spans = played.spans()
    ranks = played.plan.scenario.parallel.tensor
    share = {"push": 1.0, "all_reduce": 2 * (ranks - 1) / ranks}
    return sum(
        share.get(played.record.kinds[spans.kind[row]], (ranks - 1) / ranks) * spans.size_bytes[row]
        for row in np.flatnonzero(spans.lane == LANE["tp"])
    )


def flops(played: Played) -> float:
    ops = list(played.plan.context.tables.ops)
    numbers = played.plan.programs[0].op
    return sum(ops[i].flops for i in numbers[numbers >= 0] if ops[i].kind == "gemm")


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_bytes_and_work_are_conserved(ranks: int) -> None:
    whole, cut = (play(scenario(tensor, ranks)) for tensor in ("megatron", "chunked"))
    assert sent(cut) == pytest.approx(sent(whole))
    assert flops(cut) == pytest.approx(flops(whole))
    assert cut.record.memory[0].peak_bytes == pytest.approx(
        whole.record.memory[0].peak_bytes, rel=0.05
    )


def test_one_rank_has_nothing_to_cut() -> None:
    assert play(scenario("chunked", 1)).step_ps == play(scenario("megatron", 1)).step_ps


@pytest.mark.parametrize("gemm_s", [1e-6, 100e-6])
def test_a_gemm_hides_all_chunks_but_one(gemm_s: float) -> None:
    """t GEMMs of g beside t - 1 pushes of p take g + (t - 1) max(g, p), for the gathered input of a
    column-parallel GEMM as for the output of a row-parallel one."""
    free = with_system(scenario("chunked"), communication={"beside_compute": 1.0})
    played = play(free, times=lambda op: gemm_s if op.kind == "gemm" else 1e-7, host=0.0)
    spans = played.spans()
    for name in ("up", "down"):
        rows = played.rows(name=name)[:RANKS]
        alone_ps = spans.end_ps[rows[0]] - spans.start_ps[rows[0]]
        took_ps = spans.end_ps[rows[-1]] - spans.start_ps[rows[0]]
        pushes = [
            i for i in played.rows(lane="tp") if spans.start_ps[rows[0]] <= spans.start_ps[i]
        ][: RANKS - 1]
        push_ps = int((spans.end_ps - spans.start_ps)[pushes].max())
        if name == "up":
            expected = alone_ps + (RANKS - 1) * max(alone_ps, push_ps)
        else:
            expected = RANKS * alone_ps + (RANKS - 2) * max(0, push_ps - alone_ps)
        assert took_ps == pytest.approx(expected, rel=1e-3)


def test_free_communication_makes_chunks_free() -> None:
    """Where nothing takes time but the GEMMs, each proportional to its work, chunks change nothing
    but the sums of what was received."""

    def by_work(op: Any) -> float:
        return op.flops * 1e-14 if op.kind == "gemm" else 1e-12

    whole, cut = (
        play(instant(scenario(tensor)), times=by_work, host=0.0)
        for tensor in ("megatron", "chunked")
    )
    assert cut.step_ps == pytest.approx(whole.step_ps, rel=1e-3)
    assert whole.step_ps > 1e-6 * PS_PER_S
