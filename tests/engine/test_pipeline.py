"""Pipeline stages: when messages are posted, who waits for them, and what waits at the ends.

Kernels of a forward pass take one second and of a backward pass two, a message takes half a second;
two stages of one block on two nodes of one device each.
"""

from __future__ import annotations

from typing import Any

import pytest

from desim.plan.build import build_plan
from tests.jobs import BASE, LANE, Played, instant, job, play, with_system

MODEL = BASE["workload"]["model"]
TIMES = {"qkv": 1.0, "qkv_dgrad": 2.0}
SECOND = 1e12
CLOSE = 1e-6


def two_stages(mode: str, micro_batches: int = 3, **changes: Any) -> Played:
    scenario = job(
        cluster__devices=2,
        workload__global_batch=micro_batches,
        workload__model__layers=2,
        parallel={"pipeline": 2, "zero": 0},
        policies={"overlap": {"pipeline": mode}},
        **changes,
    )
    apart = with_system(
        instant(scenario),
        devices_per_node=1,
        nics_per_node=1,
        nvlink_domain=1,
        fabric={"latency_s": 0.5, "nic_bytes_per_s": 1e15},
    )
    return play(apart, lambda op: TIMES.get(op.name, 0.0), host=0.0)


def times(played: Played, number: int, name: str, column: str = "start_ps") -> list[float]:
    """Seconds since the pipeline began at which the spans of a name start (or end, or arrive)."""
    begin = int(played.spans(0).start_ps[played.rows(0, "embedding")[0]])
    values = getattr(played.spans(number), column)
    return [(int(values[row]) - begin) / SECOND for row in played.rows(number, name)]


def test_blocking_messages() -> None:
    """Narayanan et al. 2021, figure 4, with a stage that waits for each of its messages."""
    played = two_stages("blocking")
    assert times(played, 0, "qkv") == pytest.approx([0, 1.5, 7], abs=CLOSE)
    assert times(played, 1, "qkv") == pytest.approx([1.5, 5, 8.5], abs=CLOSE)
    assert times(played, 1, "qkv_dgrad") == pytest.approx([2.5, 6, 9.5], abs=CLOSE)
    assert times(played, 0, "qkv_dgrad") == pytest.approx([5, 8.5, 12], abs=CLOSE)


def test_asynchronous_messages() -> None:
    """The first stage goes on at once; what it sends is there when the second one needs it."""
    played = two_stages("async")
    assert times(played, 0, "qkv") == pytest.approx([0, 1, 7], abs=CLOSE)
    assert times(played, 1, "qkv") == pytest.approx([1.5, 4.5, 8.5], abs=CLOSE)
    assert times(played, 1, "qkv_dgrad") == pytest.approx([2.5, 5.5, 9.5], abs=CLOSE)
    assert times(played, 0, "qkv_dgrad") == pytest.approx([5, 8, 12], abs=CLOSE)


def test_a_blocking_pair_waits_at_its_rendezvous() -> None:
    """The first stage posts its second result and its first gradient together and waits for both.

    The second stage comes for them when its first backward pass is done.
    """
    played = two_stages("blocking")
    for name in ("send forward", "recv backward"):
        which = 1 if name == "send forward" else 0
        assert times(played, 0, name, "ready_ps")[which] == pytest.approx(2.5, abs=CLOSE)
        assert times(played, 0, name)[which] == pytest.approx(4.5, abs=CLOSE)
        assert times(played, 0, name, "end_ps")[which] == pytest.approx(5, abs=CLOSE)
    account = played.accounts()[0]
    assert account["exposed_pp"] == pytest.approx(4 * 0.5 * SECOND, rel=1e-6)
    assert account["waiting"] == 0


def test_both_ends_of_a_message_run_at_the_same_time() -> None:
    played = two_stages("async")
    assert len(played.record.flows) == 6
    for flow in played.record.flows:
        sent, received = played.spans(flow.source_class), played.spans(flow.target_class)
        assert sent.start_ps[flow.source_span] == received.start_ps[flow.target_span]
        assert sent.end_ps[flow.source_span] == received.end_ps[flow.target_span]
        names = played.record.names
        name = names[sent.name[flow.source_span]]
        assert name.startswith("send")
        assert names[received.name[flow.target_span]] == name.replace("send", "recv")
        assert sent.micro_batch[flow.source_span] == received.micro_batch[flow.target_span]


@pytest.mark.parametrize("schedule", ["1f1b", "gpipe", "interleaved"])
@pytest.mark.parametrize("mode", ["blocking", "async"])
def test_messages_carry_each_micro_batch_once(schedule: str, mode: str) -> None:
    """Between neighbouring chunks, in order, forward and backward."""
    chunks = 2 if schedule == "interleaved" else 1
    played = play(
        job(
            workload__model={**MODEL, "layers": 4 * chunks},
            workload__global_batch=16,
            parallel={"pipeline": 4, "virtual_stages": chunks},
            policies={"schedule": schedule, "overlap": {"pipeline": mode}},
        )
    )
    crossings = 4 * chunks - 1
    assert len(played.record.flows) == 2 * crossings * 8
    for number in range(4):
        spans = played.spans(number)
        for lane in ("pp_send_forward", "pp_recv_forward", "pp_send_backward", "pp_recv_backward"):
            rows = played.rows(number, lane=lane)
            counts = [int((spans.micro_batch[rows] == m).sum()) for m in range(8)]
            assert len(set(counts)) == 1


@pytest.mark.parametrize(
    ("sequence", "split", "share"),
    [(True, True, 4), (True, False, 4), (False, True, 4), (False, False, 1)],
)
def test_size_of_a_message(sequence: bool, split: bool, share: int) -> None:
    """A micro-batch's activation, or the part of one tensor rank; parts of a whole are gathered."""
    played = play(
        job(
            parallel={"tensor": 4, "pipeline": 2, "sequence": sequence},
            policies__split_p2p=split,
        )
    )
    spans = played.spans()
    sizes = set(spans.size_bytes[played.rows(0, "send forward")].tolist())
    assert sizes == {1024 * 1024 * 2 / share}
    gathered = "received parts" in played.record.names
    assert gathered == (split and not sequence)


def test_tied_embeddings_are_reduced_between_the_ends() -> None:
    """The first and the last stage add their gradients of the shared table; others do not."""
    tied = {**MODEL, "tied_embeddings": True}
    played = play(job(workload__model=tied, parallel={"pipeline": 4}))
    table = 1024 * 1024 * 4.0
    for number, rank_class in enumerate(played.record.classes):
        rows = played.rows(number, "tied embedding reduce")
        if rank_class.stage in (0, 3):
            assert len(rows) == 1
            spans = played.spans(number)
            assert spans.size_bytes[rows[0]] == table
            norm = played.rows(number, "grad_norm")[0]
            assert spans.end_ps[rows[0]] <= spans.start_ps[norm]
            backward = spans.name == played.record.names.index("qkv_wgrad")
            assert spans.start_ps[rows[0]] >= spans.end_ps[backward].max()
        else:
            assert not rows
    alone = play(job(workload__model=tied))
    assert "tied embedding reduce" not in alone.record.names


def test_uneven_stages_hold_their_layers() -> None:
    scenario = job(
        workload__model={**MODEL, "layers": 7},
        parallel={"pipeline": 4, "stage_layers": [1, 3, 2, 1]},
    )
    played = play(scenario)
    kernels = []
    for number in range(4):
        spans = played.spans(number)
        rows = played.rows(number, "qkv")
        kernels.append(len(rows))
        assert spans.lane[rows].max() == LANE["compute"]
    assert kernels == [4, 12, 8, 4]
    held = [sorted(set(played.spans(n).layer[played.rows(n, "qkv")].tolist())) for n in range(4)]
    assert held == [[1], [2, 3, 4], [5, 6], [7]]
    assert len(build_plan(scenario).programs) == 4
