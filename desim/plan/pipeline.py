"""Messages between pipeline stages: when they are posted and who waits for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from desim.plan.template import NOTHING, START, Emitter, Mark

if TYPE_CHECKING:
    from collections.abc import Callable

    from desim.plan.program import ProgramBuilder
    from desim.plan.schedules.passes import Pass
    from desim.plan.template import Template

    #: Passes that are played together, each with its model chunk.
    Turn = list[tuple[Pass, int]]


class Messages:
    """Posts a stage's sends and receives around its passes.

    `blocking`: as Megatron-LM's schedules without `--overlap-p2p-communication`: after a pass its
    result is sent and the next pass's input received, as one pair where both go to the same
    neighbour, and the host waits for the device after each (`batch_p2p_sync`). `async`: a receive
    is posted one pass ahead and a send is not waited for. With `free_sends` (several chunks, or
    weight gradients placed apart) a stage, and its host, never waits for its sends: with blocking
    sends around the ring nobody would receive. `turn` is the first part that runs from the last
    stage back to the first: what goes to it stays on its stage.
    """

    def __init__(
        self,
        emitter: Callable[[], Emitter],
        size_bytes: float,
        mode: str,
        num_parts: int,
        *,
        free_sends: bool,
        turn: int | None = None,
    ) -> None:
        self._emitter = emitter
        self._size = size_bytes
        self._async = mode == "async"
        self._parts = num_parts
        self._free_sends = free_sends
        self._turn = turn if turn is not None else num_parts
        self._templates: dict[tuple[str, bool], Template] = {}

    def sends(self, item: Pass, part: int) -> str:
        """Slot on which a pass of model chunk `part` sends its result, or nothing."""
        if item.kind == "forward":
            return self._slot("send_forward", part)
        return self._slot("send_backward", part - 1) if item.kind != "weight" else ""

    def receives(self, item: Pass, part: int) -> str:
        """Slot on which a pass of model chunk `part` receives its input, or nothing."""
        if item.kind == "forward":
            return self._slot("recv_forward", part - 1)
        return self._slot("recv_backward", part) if item.kind != "weight" else ""

    def _slot(self, slot: str, upper: int) -> str:
        """Slot of a message between part `upper` and the next, or nothing where none is sent."""
        if not 0 <= upper < self._parts - 1 or upper == self._turn - 1:
            return ""
        return f"{slot}_return" if upper >= self._turn else slot

    def _post(
        self, builder: ProgramBuilder, micro_batch: int, slot: str, *, early: bool = False
    ) -> list[Mark]:
        """Post one end of a message; an early one waits for nothing that is computed."""
        if not slot:
            return []
        key = (slot, early)
        if key not in self._templates:
            emit = self._emitter()
            emit.phase = "forward" if "forward" in slot else "backward"
            after = NOTHING if early else START
            emit.output(slot, emit.message(slot, self._size, (after,), beside=self._async))
            self._templates[key] = emit.finish()
        return list(builder.place(self._templates[key], micro_batch)[slot])

    def run(
        self,
        builder: ProgramBuilder,
        order: list[tuple[Pass, int]],
        place: Callable[[Pass], None],
    ) -> None:
        """Place the passes of `order` (pass, model chunk) with the messages between them.

        Passes that are played together wait for the inputs of all, and send when all are done.
        """
        turns = _together(order)
        arrived = self._post_receives(builder, turns[0], early=self._async)
        for turn, following in zip(turns, [*turns[1:], []], strict=True):
            ahead = self._post_receives(builder, following, early=True) if self._async else []
            builder.wait(arrived)
            if arrived and self._free_sends and not self._async:
                builder.host_wait(arrived)
            elif arrived and not self._async:
                builder.synchronize()
            for item, _ in turn:
                place(item)
            if self._async:
                self._post_sends(builder, turn)
                arrived = ahead
            else:
                arrived = self._exchange(builder, turn, following)

    def _post_receives(self, builder: ProgramBuilder, turn: Turn, *, early: bool) -> list[Mark]:
        return [
            mark
            for item, part in turn
            for mark in self._post(
                builder, item.micro_batch, self.receives(item, part), early=early
            )
        ]

    def _post_sends(self, builder: ProgramBuilder, turn: Turn) -> list[Mark]:
        return [
            mark
            for item, part in turn
            for mark in self._post(builder, item.micro_batch, self.sends(item, part))
        ]

    def _exchange(self, builder: ProgramBuilder, turn: Turn, following: Turn) -> list[Mark]:
        """Send a turn's results and receive the next one's input, paired where Megatron-LM does."""
        item, part = turn[-1]
        then, then_part = following[0] if following else (item, part)
        paired = bool(self.sends(item, part) and self.receives(then, then_part))
        paired = paired and then.kind != item.kind
        sent = self._post_sends(builder, turn)
        if sent and not paired and not self._free_sends:
            builder.wait(sent)
            builder.synchronize()
        received = self._post_receives(builder, following, early=False)
        return [*sent, *received] if paired and not self._free_sends else received


def _together(order: Turn) -> list[Turn]:
    """Cut an order into turns: a pass, or a forward and a backward pass that are joined."""
    turns: list[Turn] = []
    for entry in order:
        if entry[0].kind == "joined":
            turns[-1].append(entry)
        else:
            turns.append([entry])
    return turns
