"""Law: the pipeline bubble of each schedule, with stages that take exactly as long as each other.

Kernels are given their times by name: one of each block takes all the time of its pass, all others
take the engine's least, one picosecond. Communication and launches take nothing to speak of. What
is left over (a picosecond per kernel and microseconds of messages, in steps of a minute) is below
1e-8 of the step, which is the tolerance.
"""

from __future__ import annotations

import pytest

from tests.jobs import Played, instant, job, play

FORWARD_S, DGRAD_S, WGRAD_S = 1.0, 0.7, 1.6
TIMES = {"qkv": FORWARD_S, "qkv_dgrad": DGRAD_S, "qkv_wgrad": WGRAD_S}
PASSES_S = FORWARD_S + DGRAD_S + WGRAD_S
CLOSE = 1e-8


def pipeline(
    schedule: str,
    stages: int,
    micro_batches: int,
    chunks: int = 1,
    p2p: str = "blocking",
    times: dict[str, float] = TIMES,
    **policies: object,
) -> Played:
    """Play a pipeline of equal stages, one block per model chunk."""
    devices = 8
    scenario = job(
        workload__model__layers=stages * chunks,
        workload__global_batch=micro_batches * devices // stages,
        parallel={"pipeline": stages, "virtual_stages": chunks, "zero": 0},
        policies={"schedule": schedule, "overlap": {"pipeline": p2p}, **policies},
    )
    return play(instant(scenario), lambda op: times.get(op.name, 0.0), host=0.0)


def check(played: Played, stages: int, micro_batches: int, chunks: int = 1) -> None:
    """The step is (m v + p - 1) passes of a chunk, p - 1 of them are the bubble of every rank."""
    turns = micro_batches * chunks + stages - 1
    assert played.step_ps == pytest.approx(turns * PASSES_S * 1e12, rel=CLOSE)
    for account in played.accounts():
        assert account["bubble"] / played.step_ps == pytest.approx((stages - 1) / turns, rel=CLOSE)


@pytest.mark.parametrize("p2p", ["blocking", "async"])
@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
@pytest.mark.parametrize(
    ("stages", "micro_batches"), [(1, 3), (2, 1), (2, 4), (4, 2), (4, 8), (8, 9)]
)
def test_gpipe_and_1f1b(schedule: str, stages: int, micro_batches: int, p2p: str) -> None:
    """Huang et al. 2019 (arXiv:1811.06965), section 2.3: (p - 1) / (m + p - 1) of the step."""
    check(pipeline(schedule, stages, micro_batches, p2p=p2p), stages, micro_batches)


@pytest.mark.parametrize("p2p", ["blocking", "async"])
@pytest.mark.parametrize(
    ("stages", "micro_batches", "chunks"), [(2, 2, 2), (2, 8, 3), (4, 4, 2), (4, 8, 2), (4, 12, 4)]
)
def test_interleaved(stages: int, micro_batches: int, chunks: int, p2p: str) -> None:
    """Narayanan et al. 2021 (arXiv:2104.04473), section 2.2: (p - 1) / (v m + p - 1)."""
    played = pipeline("interleaved", stages, micro_batches, chunks, p2p)
    check(played, stages, micro_batches, chunks)


@pytest.mark.parametrize("schedule", ["interleaved", "breadth_first"])
@pytest.mark.parametrize("micro_batches", [4, 5, 7, 11])
def test_chunks_with_any_number_of_micro_batches(schedule: str, micro_batches: int) -> None:
    """(p - 1)(F + B) / v from p micro-batches on, whether or not p divides their number.

    Lamy-Poirier 2023 (arXiv:2211.05953), equation 2, of breadth-first.
    """
    check(pipeline(schedule, 4, micro_batches, 2), 4, micro_batches, 2)


@pytest.mark.parametrize("p2p", ["blocking", "async"])
@pytest.mark.parametrize(("stages", "micro_batches"), [(2, 4), (4, 8), (4, 14), (8, 16)])
def test_dualpipe(stages: int, micro_batches: int, p2p: str) -> None:
    """(p/2 - 1)(F&B + B - 3W) of DeepSeek-AI 2024 (arXiv:2412.19437), table 2.

    F&B is F + B, B the whole backward pass; no forward pass is longer than the input's gradient.
    """
    forward_s, dgrad_s, wgrad_s = 1.0, 1.3, 0.9
    times = {"qkv": forward_s, "qkv_dgrad": dgrad_s, "qkv_wgrad": wgrad_s}
    whole_s = dgrad_s + wgrad_s
    each_s = forward_s + 2 * whole_s - 3 * wgrad_s
    played = pipeline("dualpipe", stages, micro_batches, p2p=p2p, times=times)
    step_s = micro_batches * (forward_s + whole_s) + (stages / 2 - 1) * each_s
    assert played.step_ps == pytest.approx(step_s * 1e12, rel=CLOSE)
    if stages <= 4:
        # Half the ranks: two chunks each, of 2p parts of the model.
        played = pipeline("dualpipe_v", stages, micro_batches, 2, p2p=p2p, times=times)
        step_s = 2 * micro_batches * (forward_s + whole_s) + (stages - 1) * each_s
        assert played.step_ps == pytest.approx(step_s * 1e12, rel=CLOSE)


@pytest.mark.parametrize("p2p", ["blocking", "async"])
@pytest.mark.parametrize(("stages", "micro_batches"), [(2, 4), (4, 12)])
def test_zero_bubble(stages: int, micro_batches: int, p2p: str) -> None:
    """Qi et al. 2024 (arXiv:2401.10241), table 2, with T_F + T_B > 2 T_W: all are bubbles."""
    dgrad_s, wgrad_s = 1.2, 0.8
    times = {"qkv": FORWARD_S, "qkv_dgrad": dgrad_s, "qkv_wgrad": wgrad_s}
    left_s = {"zb_h1": FORWARD_S + dgrad_s - wgrad_s, "zb_h2": FORWARD_S + dgrad_s - 2 * wgrad_s}
    for schedule, each_s in left_s.items():
        played = pipeline(schedule, stages, micro_batches, p2p=p2p, times=times)
        whole_s = micro_batches * sum(times.values())
        step_s = whole_s + (stages - 1) * each_s
        assert played.step_ps == pytest.approx(step_s * 1e12, rel=CLOSE)
        for account in played.accounts():
            ran = account["compute"] + account["optimizer"]
            assert ran == pytest.approx(whole_s * 1e12, rel=CLOSE)


def test_only_post_validation_removes_the_whole_bubble() -> None:
    """With equal passes ZB-H2 leaves none; waiting for the norm of all costs p - 1 of them."""
    stages, micro_batches = 4, 12
    times = dict.fromkeys(TIMES, 1.0)
    for post_validation, left in ((True, 0), (False, stages - 1)):
        played = pipeline(
            "zb_h2", stages, micro_batches, times=times, post_validation=post_validation
        )
        step_s = 3.0 * micro_batches + left
        assert played.step_ps == pytest.approx(step_s * 1e12, rel=CLOSE)


@pytest.mark.parametrize(("dgrad_s", "wgrad_s"), [(1.0, 1.0), (1.2, 0.8), (1.4, 0.8)])
def test_what_waiting_for_the_norm_costs(dgrad_s: float, wgrad_s: float) -> None:
    """(p-1)(2W - B_in) under ZB-H2, whose first stage begins first and whose last one ends last;
    nothing under ZB-H1, whose stages end together where B_in >= W."""
    times = {"qkv": 1.0, "qkv_dgrad": dgrad_s, "qkv_wgrad": wgrad_s}
    for schedule, cost_s in (("zb_h1", 0.0), ("zb_h2", 3 * (2 * wgrad_s - dgrad_s))):
        validated, waits = (
            pipeline(schedule, 4, 12, times=times, post_validation=chosen)
            for chosen in (True, False)
        )
        cost_ps = waits.step_ps - validated.step_ps
        assert cost_ps == pytest.approx(cost_s * 1e12, abs=CLOSE * waits.step_ps)


def test_post_validation_changes_nothing_where_the_first_stage_ends_last() -> None:
    """Under 1F1B stage 0 begins and ends the step: no later stage can make it shorter."""
    stages, micro_batches = 4, 12
    played = pipeline("1f1b", stages, micro_batches, post_validation=True)
    assert played.step_ps == pytest.approx((micro_batches + 3) * PASSES_S * 1e12, rel=CLOSE)


def test_uneven_stages_wait_for_the_slowest() -> None:
    """The slowest stage of 1F1B only idles while its first micro-batch is further down.

    It has two forward passes of warm-up to fill that time with; before and after it the stages
    above are passed once forward and once backward.
    """
    layers = [1, 3, 2, 1]
    micro_batches, above, slowest, below, warmup = 8, 1, 3, 3, 2
    scenario = job(
        workload__model__layers=sum(layers),
        workload__global_batch=2 * micro_batches,
        parallel={"pipeline": 4, "stage_layers": layers, "zero": 0},
        policies={"overlap": {"pipeline": "async"}},
    )
    played = play(instant(scenario), lambda op: TIMES.get(op.name, 0.0), host=0.0)
    idle_s = below * PASSES_S - warmup * slowest * FORWARD_S
    step_s = (micro_batches * slowest + above) * PASSES_S + idle_s
    assert played.step_ps == pytest.approx(step_s * 1e12, rel=CLOSE)
    for number, rank_class in enumerate(played.record.classes):
        ran = played.accounts()[number]["compute"]
        whole = micro_batches * layers[rank_class.stage] * PASSES_S
        assert ran == pytest.approx(whole * 1e12, rel=CLOSE)
