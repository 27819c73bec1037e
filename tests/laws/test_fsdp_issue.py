"""Law: when FSDP issues its gathers changes who waits and what is held, never what is moved."""

from __future__ import annotations

import pytest

from tests.engine.test_fsdp import LAYERS, WHOLE, covered, gathers, sharded
from tests.jobs import LANE, PHASE, Played

MODES = ("explicit", "host_run_ahead", "implicit")


def starts_ps(played: Played, layer: int) -> int:
    """When the first kernel of a layer's forward pass starts."""
    spans = played.spans()
    rows = (spans.lane == LANE["compute"]) & (spans.layer == layer)
    return int(spans.start_ps[rows & (spans.phase == PHASE["forward"])].min())


@pytest.mark.parametrize("prefetch_backward", [None, 0, 2])
@pytest.mark.parametrize("issue", MODES)
def test_what_is_moved_does_not_depend_on_when(issue: str, prefetch_backward: int | None) -> None:
    """The same gathers and reductions, and nothing is left over at the end of the step."""
    played = sharded(issue=issue, prefetch_backward=prefetch_backward)
    usual = sharded()
    for name in ("param gather", "grad reduce"):
        sizes, expected = (p.spans().size_bytes[p.rows(name=name)] for p in (played, usual))
        assert sizes.tolist() == expected.tolist()
    memory = played.record.memory[0]
    row = memory.by_owner[memory.owners.index("gathered parameters")]
    assert row[-1] == 0.0
    assert row.min() == 0.0


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_the_limit_binds_a_host_that_runs_ahead(limit: int) -> None:
    """However far ahead it is, no more layers are gathered than may be in flight."""
    played = sharded(issue="host_run_ahead", gathers_in_flight=limit)
    memory = played.record.memory[0]
    row = memory.by_owner[memory.owners.index("gathered parameters")]
    block = max(layer.parameters for layer in played.plan.context.layers) * 2.0
    assert row.max() == pytest.approx(limit * block)


def test_the_host_never_waits_for_an_implicit_gather() -> None:
    """It issues the whole step without a stop; under a limit it stops for every layer."""
    waits = {
        issue: len(sharded(issue=issue).plan.programs[0].host_waits)
        for issue in ("host_run_ahead", "implicit")
    }
    assert waits["host_run_ahead"] > WHOLE
    assert waits["implicit"] < waits["host_run_ahead"] - WHOLE


def test_the_stream_waits_for_an_earlier_copy_out() -> None:
    """FSDP2: forward, gather j starts once layer j - 2 is copied out, which is when it computes;
    backward, once the layer above is."""
    played = sharded(issue="implicit", host=0.0, tokens=4096, per_parameter=True)
    spans = played.spans()
    rows, copies = gathers(played), played.rows(name="param copy out")
    order = [played.spans().end_ps[row] for row in copies]
    for place in range(2, WHOLE):
        assert spans.start_ps[rows[place]] >= order[place - 2]
    for place in range(WHOLE + 1, len(rows)):
        assert spans.start_ps[rows[place]] >= order[place - 1]
    assert sum(covered(played, row) for row in rows) >= 2 * LAYERS - 2


def test_backward_prefetch_is_a_choice_of_its_own() -> None:
    """Without it a gather queues behind the reduction of the layer above; forward nothing moves."""
    ahead, behind = (
        sharded(host=0.0, tokens=4096, prefetch=1, prefetch_backward=n) for n in (1, 0)
    )
    assert ahead.step_ps < behind.step_ps
    forward = [starts_ps(p, LAYERS) - starts_ps(p, 0) for p in (ahead, behind)]
    assert forward[0] == forward[1]
    hidden = [sum(covered(p, row) for row in gathers(p)[WHOLE + 1 :]) for p in (ahead, behind)]
    assert hidden[0] > hidden[1] == 0


def test_a_host_that_is_ahead_needs_no_explicit_prefetch() -> None:
    """To an instant host it is all the same; a host that is behind its device exposes the gathers
    that it issues only when it comes to their layer."""
    for limit in (2, 3):
        steps = {
            sharded(host=0.0, tokens=4096, issue=issue, gathers_in_flight=limit).step_ps
            for issue in ("explicit", "host_run_ahead")
        }
        assert len(steps) == 1
    exposed = [
        sharded(host=60.0, tokens=4096, issue=issue, gathers_in_flight=3).accounts()[0][
            "exposed_dp"
        ]
        for issue in ("explicit", "host_run_ahead")
    ]
    assert exposed[0] < exposed[1]


@pytest.mark.parametrize("kept", [2, 4])
def test_neighbours_keep_what_they_gather_again(kept: int) -> None:
    """Forward gathers come from all ranks, backward ones from `kept` neighbours, who hold 1/kept of
    every layer but the last in between."""
    played, usual = sharded(reshard_after_forward=kept), sharded()
    groups = played.plan.wiring.members
    assert groups["shard"].shape == (8 // kept, kept)
    assert groups["dp"].shape == (1, 8)
    spans = played.spans()
    rows = gathers(played)
    expected = usual.spans().size_bytes[gathers(usual)]
    assert spans.size_bytes[rows].tolist() == expected.tolist()
    from_all = spans.alone_ps[rows[1 : 1 + LAYERS]]
    again = spans.alone_ps[rows[WHOLE : WHOLE + LAYERS]]
    assert again.max() < from_all.min()
    memory = played.record.memory[0]
    row = memory.by_owner[memory.owners.index("kept parameters")]
    held = sum(layer.parameters for layer in played.plan.context.layers[:-1]) * 2.0
    assert row.max() == pytest.approx(held / kept)
    assert row[-1] == 0.0
