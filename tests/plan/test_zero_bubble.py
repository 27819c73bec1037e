"""Zero-bubble schedules: bubbles in closed form, memory, and orders that can be played together.

Qi et al. 2024 (ICLR; arXiv:2401.10241, which adds ZB-V): table 2 (bubbles and memory), table 5
(bubble rates of the schedules found), table 6 in appendix D (the measured times of passes).
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from desim.plan.schedules import AUTOMATIC, SCHEDULES
from desim.plan.schedules.automatic import automatic, patterns
from desim.plan.schedules.costs import Costs, Played, play_orders
from desim.plan.schedules.listing import Greedy
from desim.plan.schedules.passes import Pass

F, B, W = 1.0, 0.9, 0.7
#: `zb_auto` with `policies.schedule_memory: 1.5`.
LIMITS = {name: limit or 1.5 for name, limit in AUTOMATIC.items()}


def costs(
    stages: int,
    times: tuple[float, float, float],
    message_s: float = 0.0,
    chunks: int = 1,
    kept: float = 0.4,
) -> Costs:
    """Equal stages; the chunks of one share its time."""

    def table(value: float) -> tuple[tuple[float, ...], ...]:
        return ((value,) * chunks,) * stages

    return Costs(*(table(t / chunks) for t in times), table(kept), message_s, chunks == 2)


def fixed(name: str, stages: int, micro_batches: int) -> list[list[Pass]]:
    return [SCHEDULES[name](s, stages, micro_batches, 1) for s in range(stages)]


def found(name: str, given: Costs, micro_batches: int) -> list[list[Pass]]:
    return automatic(given, micro_batches, LIMITS[name], joined=False)


def most_held(order: list[Pass], kept: float) -> float:
    """Most passes that hold memory: whole after the forward pass, `kept` after the backward one."""
    change = {"forward": 1.0, "backward": kept - 1.0, "weight": -kept}
    most = now = 0.0
    for item in order:
        now += change[item.kind]
        most = max(most, now)
    return most


def bubble(played: Played, micro_batches: int, times: tuple[float, float, float]) -> float:
    return played.longest_s - micro_batches * sum(times)


@pytest.mark.parametrize(("stages", "micro_batches"), [(2, 4), (4, 12), (8, 24)])
def test_bubbles_in_closed_form(stages: int, micro_batches: int) -> None:
    """Table 2: (p-1)(T_F+T_B+T_W) for 1F1B, (p-1)(T_F+T_B-T_W) H1, (p-1)(T_F+T_B-2T_W) H2."""
    times = (F, B, W)
    whole = costs(stages, (F, B + W, 0.0))
    expected = {"1f1b": F + B + W, "zb_h1": F + B - W, "zb_h2": F + B - 2 * W}
    for name, each in expected.items():
        used = whole if name == "1f1b" else costs(stages, times)
        played = play_orders(fixed(name, stages, micro_batches), used)
        assert bubble(played, micro_batches, times) == pytest.approx((stages - 1) * each)


@pytest.mark.parametrize("stages", [2, 4, 8])
def test_memory_of_the_fixed_schedules(stages: int) -> None:
    """Table 2: on every stage as much as 1F1B on its first (p), and 2p - 1, if W keeps it all."""
    for name, most in (("zb_h1", stages), ("zb_h2", 2 * stages - 1)):
        for order in fixed(name, stages, 4 * stages):
            assert most_held(order, 1.0) == most


@pytest.mark.parametrize("stages", [2, 4, 8])
def test_no_bubble_where_passes_are_equal(stages: int) -> None:
    """T_F = T_B = T_W: ZB-2p and ZB-V have none (sections 2.2 and 6), ZB-1p (p-1) T_F."""
    times, micro_batches = (1.0, 1.0, 1.0), 3 * stages
    for name, left in (("zb_1p", stages - 1), ("zb_2p", 0), ("zb_v", 0)):
        given = costs(stages, times, chunks=2 if name == "zb_v" else 1)
        played = play_orders(found(name, given, micro_batches), given)
        assert bubble(played, micro_batches, times) == pytest.approx(left, abs=1e-9)


@pytest.mark.parametrize(
    ("times", "message_s", "rates"),
    [
        ((18.522, 18.086, 9.337), 0.601, {"zb_1p": 0.1585, "zb_2p": 0.0433}),
        ((29.718, 29.444, 19.927), 0.527, {"zb_1p": 0.1323, "zb_2p": 0.0029}),
    ],
)
def test_bubble_rates_of_the_paper(
    times: tuple[float, float, float], message_s: float, rates: dict[str, float]
) -> None:
    """The 1.5B and 6.2B models on 8 stages, 24 micro-batches: times in ms (table 6), rates (5)."""
    given = costs(8, times, message_s)
    for name, rate in rates.items():
        played = play_orders(found(name, given, 24), given)
        assert 1 - 24 * sum(times) / played.longest_s == pytest.approx(rate, abs=2e-3)


@pytest.mark.parametrize("stages", [4, 8])
def test_more_memory_never_makes_a_longer_bubble(stages: int) -> None:
    """`zb_auto`: at 1 it is ZB-1p, at 2 ZB-2p, between them between (Qi et al. 2024, figure 7)."""
    times, micro_batches = (1.0, 1.0, 1.0), 3 * stages
    given = costs(stages, times, kept=1.0)
    left = []
    for limit in (0.5, 1.0, 1.25, 1.5, 1.75, 2.0):
        orders = automatic(given, micro_batches, limit, joined=False)
        left.append(bubble(play_orders(orders, given), micro_batches, times))
    assert left == sorted(left, reverse=True)
    assert left[1] == pytest.approx(stages - 1)
    assert left[-1] == pytest.approx(0, abs=1e-9)
    assert left[0] > left[1] > left[3] > left[-1]


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(sorted(AUTOMATIC)),
    st.integers(2, 6),
    st.integers(1, 14),
    st.tuples(st.floats(0.2, 3), st.floats(0.2, 3), st.floats(0.1, 3)),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_what_is_found_can_be_played(
    name: str,
    stages: int,
    micro_batches: int,
    times: tuple[float, float, float],
    message_s: float,
    kept: float,
) -> None:
    """Every pass once, weights after their backward pass, within memory, no circle of waiting."""
    chunks = 2 if name == "zb_v" else 1
    used = costs(stages, times, message_s, chunks, kept)
    orders = found(name, used, micro_batches)
    played = play_orders(orders, used)
    assert played.longest_s >= micro_batches * sum(times) * (1 - 1e-9)
    for order in orders:
        assert len(order) == len(set(order)) == 3 * micro_batches * chunks
        place = {item: at for at, item in enumerate(order)}
        for item in order:
            if item.kind != "forward":
                before = "forward" if item.kind == "backward" else "backward"
                assert place[item] > place[item._replace(kind=before)]
        limit = LIMITS[name] * stages * chunks
        assert most_held(order, kept) <= limit + 1e-6


def test_orders_that_wait_in_a_circle_are_refused() -> None:
    """Two stages that each want the other's later pass first."""
    orders = [
        [Pass("forward", 0), Pass("backward", 0), Pass("forward", 1), Pass("backward", 1)],
        [Pass("forward", 0), Pass("forward", 1), Pass("backward", 0), Pass("backward", 1)],
    ]
    with pytest.raises(ValueError, match="circle"):
        play_orders(orders, costs(2, (1.0, 1.0, 0.0)))


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 6),
    st.integers(1, 14),
    st.sampled_from([1, 2]),
    st.sampled_from([1, 1.5, 2]),
    st.tuples(st.floats(0.2, 3), st.floats(0.2, 3), st.floats(0.1, 3)),
    st.floats(0, 1),
)
def test_lists_and_plays_agree(
    stages: int,
    micro_batches: int,
    chunks: int,
    limit: float,
    times: tuple[float, float, float],
    message_s: float,
) -> None:
    """Two ways to time the same orders: as they are listed, and played again pass by pass."""
    used = costs(stages, times, message_s, chunks)
    greedy = Greedy(used, micro_batches, limit, 0.0)
    orders = greedy.run()
    again = play_orders(orders, used)
    assert greedy.played.begin_s == again.begin_s
    # A pass may be ready before the listing chooses it: it never ends earlier there.
    assert all(a <= b for a, b in zip(again.end_s, greedy.played.end_s, strict=True))
    assert greedy.played.longest_s == pytest.approx(again.longest_s)


@pytest.mark.parametrize("name", sorted(AUTOMATIC))
def test_no_pattern_beats_the_one_that_is_chosen(name: str) -> None:
    """All micro-batches are searched with: what is found is the best of every pattern and gap."""
    chunks = 2 if name == "zb_v" else 1
    used = costs(4, (F, B, W), 0.05, chunks)
    limit, few = LIMITS[name], 8
    found_s = play_orders(found(name, used, few), used).longest_s
    for make in patterns(used, limit):
        for gap in (0.0, 0.5, 1.0):
            greedy = Greedy(used, few, limit, gap, make(few))
            greedy.run()
            assert found_s <= greedy.played.longest_s * (1 + 1e-9)


@pytest.mark.parametrize(
    ("stages", "times", "message_s"),
    [(8, (1.0, 1.4, 0.8), 0.0), (8, (1.0, 1.1, 0.9), 0.05), (16, (1.0, 1.4, 0.8), 0.05)],
)
def test_a_v_is_searched_until_it_has_settled(
    stages: int, times: tuple[float, float, float], message_s: float
) -> None:
    """What is chosen after some micro-batches is the best of every pattern over all of them."""
    micro_batches = 64
    used = costs(stages, times, message_s, chunks=2)
    found_s = play_orders(found("zb_v", used, micro_batches), used).longest_s
    for make in patterns(used, LIMITS["zb_v"]):
        pattern = make(micro_batches)
        for gap in (0.0, 0.5, 1.0):
            greedy = Greedy(used, micro_batches, LIMITS["zb_v"], gap, pattern)
            greedy.run()
            assert found_s <= greedy.played.longest_s * (1 + 1e-9)
