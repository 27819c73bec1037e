"""Messages between pipeline stages: when they are posted and who waits for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from desim.plan.template import START, Emitter, Mark

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from desim.plan.program import ProgramBuilder
    from desim.plan.schedules.passes import Pass
    from desim.plan.template import Template

    #: Passes that are played together, each with its model chunk.
    Turn = Sequence[tuple[Pass, int]]


class Messages:
    """Posts a stage's sends and receives around its passes.

    Not `posted`: as Megatron-LM's schedules without `--overlap-p2p-communication`: after a pass its
    result is sent and the next pass's input received, as one pair where both go to the same
    neighbour, and the host waits for the device after each (`batch_p2p_sync`). `posted`: a receive
    is posted `ahead` passes ahead and a send is not waited for. With `free_sends` (several chunks,
    or weight gradients placed apart) a stage, and its host, never waits for its sends: with
    blocking sends around the ring nobody would receive. `turn` is the first part that runs from the
    last stage back to the first: what goes to it stays on its stage. `prepare` places what a pass
    may do before its input has arrived; messages then run beside it.
    """

    def __init__(
        self,
        emitter: Callable[[], Emitter],
        size_bytes: float,
        num_parts: int,
        *,
        posted: bool,
        free_sends: bool,
        turn: int | None = None,
        ahead: int = 1,
        prepare: Callable[[ProgramBuilder, Pass], None] | None = None,
    ) -> None:
        self._emitter = emitter
        self._size = size_bytes
        self._posted = posted
        self._beside = self._posted or prepare is not None
        self._prepare = prepare or _nothing
        self._parts = num_parts
        self._free_sends = free_sends
        self._ahead = ahead
        self._turn = turn if turn is not None else num_parts
        self._templates: dict[str, Template] = {}

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

    def _post(self, builder: ProgramBuilder, micro_batch: int, slot: str) -> list[Mark]:
        """Post one end of a message, which begins when all compute before it is done.

        So does a receive that is posted ahead: PyTorch lets the stream of a message wait for the
        current one (`syncStream` in ProcessGroupNCCL.cpp).
        """
        if slot not in self._templates:
            emit = self._emitter()
            emit.phase = "forward" if "forward" in slot else "backward"
            emit.output(slot, emit.message(slot, self._size, (START,), beside=self._beside))
            self._templates[slot] = emit.finish()
        return list(builder.place(self._templates[slot], micro_batch)[slot])

    def run(
        self,
        builder: ProgramBuilder,
        order: list[tuple[Pass, int]],
        place: Callable[[Sequence[Pass]], None],
    ) -> None:
        """Place the passes of `order` (pass, model chunk) with the messages between them.

        Passes that are played together wait for the inputs of all, and send when all are done.
        """
        turns = _together(order)
        if self._posted:
            self._run_posted(builder, turns, place)
            return
        arrived = self._post_all(builder, self._inputs(turns[0]))
        for turn, following in zip(turns, [*turns[1:], ()], strict=True):
            self._prepare_all(builder, turn)
            if arrived:
                builder.wait(arrived)
                if self._free_sends:
                    builder.host_wait(arrived)
                else:
                    builder.synchronize()
            place([item for item, _ in turn])
            turns_round = bool(following) and following[0][0].kind != turn[-1][0].kind
            made, wanted = self._results(turn), self._inputs(following)
            arrived = self._exchange(builder, made, wanted, turns_round=turns_round)

    def _run_posted(
        self,
        builder: ProgramBuilder,
        turns: Sequence[Turn],
        place: Callable[[Sequence[Pass]], None],
    ) -> None:
        """Place passes whose receives are posted ahead and whose sends nothing waits for."""
        arrived: list[list[Mark]] = []
        for i, turn in enumerate(turns):
            for following in turns[len(arrived) : i + self._ahead + 1]:
                wanted = self._inputs(following)
                arrived.append(self._post_all(builder, wanted))
            self._prepare_all(builder, turn)
            if arrived[i]:
                builder.wait(arrived[i])
            place([item for item, _ in turn])
            self._post_all(builder, self._results(turn))

    def _prepare_all(self, builder: ProgramBuilder, turn: Turn) -> None:
        for item, _ in turn:
            self._prepare(builder, item)

    def _inputs(self, turn: Turn) -> list[tuple[int, str]]:
        """Micro-batches and slots of what a turn receives."""
        ends = [(item.micro_batch, self.receives(item, part)) for item, part in turn]
        return [end for end in ends if end[1]]

    def _results(self, turn: Turn) -> list[tuple[int, str]]:
        """Micro-batches and slots of what a turn sends."""
        ends = [(item.micro_batch, self.sends(item, part)) for item, part in turn]
        return [end for end in ends if end[1]]

    def _post_all(self, builder: ProgramBuilder, ends: list[tuple[int, str]]) -> list[Mark]:
        marks: list[Mark] = []
        for micro_batch, slot in ends:
            marks += self._post(builder, micro_batch, slot)
        return marks

    def _exchange(
        self,
        builder: ProgramBuilder,
        made: list[tuple[int, str]],
        wanted: list[tuple[int, str]],
        *,
        turns_round: bool,
    ) -> list[Mark]:
        """Send a turn's results and receive the next one's input, paired where Megatron-LM does."""
        paired = bool(made and wanted and turns_round)
        sent = self._post_all(builder, made)
        if sent and not paired and not self._free_sends:
            builder.wait(sent)
            builder.synchronize()
        received = self._post_all(builder, wanted)
        return [*sent, *received] if paired and not self._free_sends else received


def _nothing(builder: ProgramBuilder, item: Pass) -> None:
    """Nothing is placed before a pass."""


def _together(order: Turn) -> list[list[tuple[Pass, int]]]:
    """Cut an order into turns: a pass, or a forward and a backward pass that are joined."""
    turns: list[list[tuple[Pass, int]]] = []
    for entry in order:
        if entry[0].kind == "joined":
            turns[-1].append(entry)
        else:
            turns.append([entry])
    return turns
