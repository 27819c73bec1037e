"""Law: cutting a collective in chunks moves the same bytes beside the same work."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from desim.record import PS_PER_S
from tests.jobs import BASE, LANE, Played, instant, job, play, with_system

MODEL = {**BASE["workload"]["model"], "layers": 2}
RANKS = 4


def scenario(tensor: str, ranks: int = RANKS, **overlap: Any) -> Any:
    return job(
        workload__model=MODEL,
        cluster__devices=ranks,
        parallel={"tensor": ranks, "zero": 0},
        policies={"overlap": {"tensor": tensor, **overlap}},
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


@pytest.mark.parametrize("exchange", ["ring", "direct", "pipeline"])
@pytest.mark.parametrize("chunks", [4, 8, 64])
def test_no_way_of_cutting_changes_bytes_or_work(exchange: str, chunks: int) -> None:
    whole = play(scenario("megatron"))
    cut = play(scenario("chunked", tensor_chunks=chunks, tensor_exchange=exchange))
    assert sent(cut) == pytest.approx(sent(whole), rel=1e-5)  # copies are whole bytes
    assert flops(cut) == pytest.approx(flops(whole))


def test_as_many_chunks_as_ranks_is_the_default() -> None:
    assert (
        play(scenario("chunked", tensor_chunks=RANKS)).step_ps == play(scenario("chunked")).step_ps
    )


def free(scenario: Any) -> Any:
    """The scenario where a copy or collective has no latency and takes nothing from kernels."""
    return with_system(
        scenario,
        communication={"beside_compute": 1.0, "nvlink_sms": 0, "network_sms": 0, "nvls_sms": 0},
        nvlink_latency_s=0.0,
    )


@pytest.mark.parametrize("exchange", ["ring", "direct", "pipeline"])
@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
def test_many_chunks_tend_to_the_ideal(exchange: str, ratio: float) -> None:
    """n GEMMs of G / n beside n - 1 copies of P / (n - 1) take G / n + max((n - 1) G / n, P), so
    that what is over the longer of G and P is at most G / n; a reduce-scatter of each chunk has n
    parts of P / n and takes one more of them."""
    over = []
    for chunks in (4, 16, 128):
        job_ = free(scenario("chunked", tensor_chunks=chunks, tensor_exchange=exchange))
        system = job_.cluster.system
        link = system.device.nvlink_bytes_per_s * system.nvlink_efficiency
        transfer_s = 3 / 4 * 1024 * 1024 * 2 / link
        gemm_s = transfer_s / ratio

        def times(op: Any, gemm_s: float = gemm_s) -> float:
            return gemm_s / op.siblings if op.name == "down" else 1e-12

        played = play(job_, times=times, host=0.0)
        spans = played.spans()
        first, last = played.rows(name="down")[0], played.rows(name="residual2")[0]
        took_s = (spans.start_ps[last] - spans.start_ps[first]) / PS_PER_S
        parts = chunks if exchange == "pipeline" else chunks - 1
        copy_s, part_s = transfer_s / parts, gemm_s / chunks
        expected = part_s + (chunks - 1) * max(part_s, copy_s)
        expected += copy_s if exchange == "pipeline" else 0.0
        assert took_s == pytest.approx(expected, rel=1e-3)
        assert took_s > max(gemm_s, transfer_s) * (1 - 1e-4)  # whole picoseconds
        over.append(took_s / max(gemm_s, transfer_s) - 1)
    assert over[2] <= over[1] <= over[0]
    assert over[2] < 0.02


def test_direct_copies_use_every_nic() -> None:
    """Inside a node both ways of travelling are alike. Over two nodes of 4 one NIC carries a copy
    of the ring in each turn, and every NIC 4/7 of one where each pair has its turn."""
    steps, seconds = {}, {}
    for exchange in ("ring", "direct"):
        near = scenario("chunked", 8, tensor_exchange=exchange)
        far = with_system(near, devices_per_node=4, nics_per_node=4, nvlink_domain=4)
        played = play(far)
        steps[exchange] = play(near).step_ps
        uses = zip(played.plan.context.tables.comms, played.plan.wiring.uses, strict=True)
        profiles = played.plan.wiring.profiles
        (number,) = {use.profile for comm, use in uses if comm.collective == "push"}
        seconds[exchange] = profiles[number].far_seconds_per_byte[0]
    assert steps["direct"] == steps["ring"]
    assert seconds["direct"] == pytest.approx(4 / 7 * seconds["ring"])


def test_kernels_that_scatter_take_sms_from_the_gemm() -> None:
    """Copy engines hold no SM; the kernels of `pipeline` do, which stretches the GEMMs."""
    held = {
        exchange: play(scenario("chunked", tensor_exchange=exchange)).plan
        for exchange in ("ring", "pipeline")
    }
    sms = {
        exchange: {
            comm.collective: plan.wiring.profiles[use.profile].sms
            for comm, use in zip(plan.context.tables.comms, plan.wiring.uses, strict=True)
            if comm.beside
        }
        for exchange, plan in held.items()
    }
    assert sms["ring"]["push"] == sms["pipeline"]["push"] == 0
    assert sms["pipeline"]["reduce_scatter"] > 0
