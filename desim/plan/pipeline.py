"""Messages between pipeline stages: when they are posted and who waits for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from desim.plan.template import NOTHING, START, Emitter, Mark

if TYPE_CHECKING:
    from collections.abc import Callable

    from desim.plan.program import ProgramBuilder
    from desim.plan.schedules.passes import Pass
    from desim.plan.template import Template


class Messages:
    """Posts a stage's sends and receives around its passes.

    `blocking`: as Megatron-LM's schedules without `--overlap-p2p-communication`: after a pass its
    result is sent and the next pass's input received, as one pair where both go to the same
    neighbour, and the host waits for the device after each (`batch_p2p_sync`). `async`: a receive
    is posted `ahead` passes ahead and a send is not waited for. With `free_sends` (several chunks,
    or weight gradients placed apart) a stage, and its host, never waits for its sends: with
    blocking sends around the ring nobody would receive. `turn` is the first part that runs from the
    last stage back to the first: what goes to it stays on its stage.
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
        ahead: int = 1,
    ) -> None:
        self._emitter = emitter
        self._size = size_bytes
        self._async = mode == "async"
        self._parts = num_parts
        self._free_sends = free_sends
        self._ahead = ahead
        self._turn = turn if turn is not None else num_parts
        self._templates: dict[tuple[str, bool], Template] = {}

    def sends(self, item: Pass, part: int) -> str:
        """Slot on which a pass of model chunk `part` sends its result, or nothing."""
        if item.kind == "forward":
            return self._slot("send_forward", part)
        return self._slot("send_backward", part - 1) if item.kind == "backward" else ""

    def receives(self, item: Pass, part: int) -> str:
        """Slot on which a pass of model chunk `part` receives its input, or nothing."""
        if item.kind == "forward":
            return self._slot("recv_forward", part - 1)
        return self._slot("recv_backward", part) if item.kind == "backward" else ""

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
        """Place the passes of `order` (pass, model chunk) with the messages between them."""
        if self._async:
            self._run_posted(builder, order, place)
            return
        first, part = order[0]
        arrived = self._post(builder, first.micro_batch, self.receives(first, part))
        for i, (item, part) in enumerate(order):
            following = order[i + 1] if i + 1 < len(order) else None
            builder.wait(arrived)
            if arrived and self._free_sends:
                builder.host_wait(arrived)
            elif arrived:
                builder.synchronize()
            place(item)
            arrived = self._exchange(builder, item, self.sends(item, part), following)

    def _run_posted(
        self,
        builder: ProgramBuilder,
        order: list[tuple[Pass, int]],
        place: Callable[[Pass], None],
    ) -> None:
        """Place passes whose receives are posted ahead and whose sends nothing waits for."""
        arrived: list[list[Mark]] = []
        for i, (item, part) in enumerate(order):
            for following, its_part in order[len(arrived) : i + self._ahead + 1]:
                slot = self.receives(following, its_part)
                early = self._ahead > 0
                arrived.append(self._post(builder, following.micro_batch, slot, early=early))
            builder.wait(arrived[i])
            place(item)
            self._post(builder, item.micro_batch, self.sends(item, part))

    def _exchange(
        self,
        builder: ProgramBuilder,
        item: Pass,
        send: str,
        following: tuple[Pass, int] | None,
    ) -> list[Mark]:
        """Send a pass's result and receive the next one's input, paired where Megatron-LM does."""
        receive = self.receives(*following) if following else ""
        turns = following is not None and following[0].kind != item.kind
        paired = bool(send and receive and turns)
        sent = self._post(builder, item.micro_batch, send)
        if sent and not paired and not self._free_sends:
            builder.wait(sent)
            builder.synchronize()
        received = self._post(builder, following[0].micro_batch, receive) if following else []
        return [*sent, *received] if paired and not self._free_sends else received
