"""Rules of a user's own schedule: complete, in order, and without a circle of waiting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice, product
from typing import NamedTuple

from desim.spec.orders import Custom, Written, part_of
from desim.spec.rules.finding import Finding, Rule, micro_batches
from desim.spec.rules.schedule import BATCH, SCHEDULE
from desim.spec.scenario import Scenario

_PATH = "policies.custom.orders"
_SHOWN = 4


def orders_can_be_played(scenario: Scenario) -> Iterator[Finding]:
    """Every pass stands once, after what it needs, and no stages wait for each other in a circle.

    Later rules are checked only where the earlier ones hold.
    """
    policies, stages = scenario.policies, scenario.parallel.pipeline
    if policies.schedule != "custom":
        return
    custom = policies.custom
    if custom is None:
        rule = "schedule custom needs the orders of its stages"
        hint = "as in policies.schedule: {orders: [F0 F1 B0 B1, F0 B0 F1 B1]}"
        yield Finding("policies.schedule", rule, "custom", hint)
        return
    if len(custom.orders) != stages:
        rule = f"must hold one order for each of {stages} pipeline stages, not {len(custom.orders)}"
        yield Finding(_PATH, rule, hint=f"or set parallel.pipeline: {len(custom.orders)}")
        return
    count = micro_batches(scenario)
    if count is None:
        return
    complete = [
        text
        for stage, order in enumerate(custom.passes)
        for text in (*_incomplete(custom, order, count), *_out_of_order(order))
        for text in [f"stage {stage} {text}"]
    ]
    found = complete or [*_crossing(custom)][:1] or [*circle(custom)]
    for text in found[: 2 * _SHOWN]:
        yield Finding(_PATH, text)


def _incomplete(custom: Custom, order: tuple[Written, ...], count: int) -> Iterator[str]:
    """Passes that a stage lacks, has more than once, or that belong to no micro-batch."""
    words = [(item.word if item.word != "BW" else "B", *item[1:]) for item in order]
    words += [("W", *item[1:]) for item in order if item.word == "BW"]
    held = Counter(words)
    kinds = ("F", "B", "W") if custom.split else ("F", "B")
    over = sorted({item for item in held if item[1] >= count})
    again = sorted(item for item in held if held[item] > 1)
    missing = len(kinds) * count * custom.chunks - (len(held) - len(over))
    if missing:
        wanted = product(range(count), range(custom.chunks), kinds)
        lacking = ((k, i, c) for i, c, k in wanted if (k, i, c) not in held)
        whole = "; a backward pass that is not split is BW" if custom.split else ""
        shown = _some([*islice(lacking, _SHOWN)], missing)
        yield f"lacks {shown} of {count} micro-batches{whole}"
    if again:
        yield f"plays {_some(again, len(again))} more than once"
    if over:
        shown = _some(over, len(over))
        yield f"plays {shown}, but micro-batches are numbered 0 to {count - 1}"


def _some(items: Sequence[tuple[str, int, int]], count: int) -> str:
    shown = [str(Written(word, number, chunk)) for word, number, chunk in items[:_SHOWN]]  # type: ignore[arg-type]
    more = f" and {count - _SHOWN} more" if count > _SHOWN else ""
    return ", ".join(shown) + more


def _out_of_order(order: tuple[Written, ...]) -> Iterator[str]:
    """Backward before forward, weight gradients before backward, of one micro-batch and chunk."""
    place = {item: at for at, item in reversed(list(enumerate(order)))}
    for at, item in enumerate(order):
        if item.word == "F":
            continue
        before = item._replace(word="B" if item.word == "W" else "F")
        if place.get(before, -1) > at:
            yield f"plays {item} before {before}"
            return


class _Place(NamedTuple):
    """Where a pass is played, and what it hands on: direction and part of the model."""

    stage: int
    item: Written
    direction: str
    part: int


def _places(custom: Custom) -> list[list[_Place]]:
    """Return the forward and backward passes of every stage with their parts of the model."""
    stages, back = len(custom.orders), custom.placement == "v"
    return [
        [
            _Place(
                stage,
                item,
                "F" if item.word == "F" else "B",
                part_of(stage, stages, item.chunk, folded_back=back),
            )
            for item in order
            if item.word != "W"
        ]
        for stage, order in enumerate(custom.passes)
    ]


def _source(place: _Place, last: int) -> tuple[str, int, int] | None:
    """Return what a pass waits for: direction, part and micro-batch; None for its own stage's."""
    step = -1 if place.direction == "F" else 1
    part = place.part + step
    return (place.direction, part, place.item.micro_batch) if 0 <= part <= last else None


def _crossing(custom: Custom) -> Iterator[str]:
    """Messages between two stages that are not received in the order in which they are sent."""
    places = _places(custom)
    last = len(places) * custom.chunks - 1
    where = {(p.direction, p.part, p.item.micro_batch): p for row in places for p in row}
    at = {(p.direction, p.part, p.item.micro_batch): n for row in places for n, p in enumerate(row)}
    for row in places:
        latest: dict[tuple[str, int], tuple[int, _Place]] = {}
        for place in row:
            source = _source(place, last)
            if source is None or where[source].stage == place.stage:
                continue
            lane = (place.direction, where[source].stage)
            sent = at[source]
            if lane in latest and latest[lane][0] > sent:
                first = latest[lane][1].item
                yield (
                    f"stage {place.stage} receives for {first} before {place.item}, but stage"
                    f" {where[source].stage} sends for {place.item} first: messages between two"
                    " stages come in the order in which they are sent"
                )
            latest[lane] = max(latest.get(lane, (sent, place)), (sent, place))


def circle(custom: Custom) -> Iterator[str]:
    """The stages that wait for each other for ever, with the passes that they wait at and for."""
    places = _places(custom)
    last = len(places) * custom.chunks - 1
    where = {(p.direction, p.part, p.item.micro_batch): p for row in places for p in row}
    done: set[tuple[str, int, int]] = set()
    at = [0] * len(places)
    moved = True
    while moved:
        moved = False
        for stage, row in enumerate(places):
            while at[stage] < len(row) and _source(row[at[stage]], last) in (done | {None}):
                place = row[at[stage]]
                done.add((place.direction, place.part, place.item.micro_batch))
                at[stage] += 1
                moved = True
    stuck = next((s for s, row in enumerate(places) if at[s] < len(row)), None)
    if stuck is None:
        return
    path: list[int] = []
    while stuck not in path:
        path.append(stuck)
        source = _source(places[stuck][at[stuck]], last)
        assert source is not None
        stuck = where[source].stage
    parts = []
    for stage in path[path.index(stuck) :]:
        source = _source(places[stage][at[stage]], last)
        assert source is not None
        needed = where[source]
        here = places[stage][at[stage]].item
        parts.append(f"stage {stage} at {here} waits for {needed.item} of stage {needed.stage}")
    yield f"deadlock: {', '.join(parts)}"


RULES = (Rule(orders_can_be_played, (*SCHEDULE, *BATCH, "policies.custom")),)
