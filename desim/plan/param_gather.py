"""Parameters that a step gathers before it uses them: ZeRO-1 and ZeRO-2."""

from __future__ import annotations

from typing import TYPE_CHECKING

from desim.plan.buckets import make_buckets
from desim.plan.passes import Hooks
from desim.plan.template import START, Input

if TYPE_CHECKING:
    from collections.abc import Callable

    from desim.plan.buckets import Bucket
    from desim.plan.context import Context
    from desim.plan.program import ProgramBuilder
    from desim.plan.stages import Chunk
    from desim.plan.template import Emitter, Mark


class ParameterGathers:
    """The gathers of one stage's parameters.

    `shares[chunk]` are the parameters that are gathered together: those of a gradient bucket, or
    what one rank owns where states are given out by whole tensors; `marks[chunk]` are those at
    which each share that is gathered ahead is there, once the step has begun.
    """

    def __init__(self, context: Context, chunks: list[Chunk], buckets: list[list[Bucket]]) -> None:
        self._context = context
        self._chunks = chunks
        self._groups = context.data_groups
        self._gathering = context.overlaps.gathering
        self._gathered = context.scenario.parallel.zero in (1, 2) and self._groups.gathers
        self._parameters = sum(layer.trained for chunk in chunks for _, layer in chunk)
        self.shares = self._by_owner() if self._groups.whole else buckets
        self.marks: list[dict[str, tuple[Mark, ...]]] = [{} for _ in chunks]

    @property
    def awaited(self) -> bool:
        """Whether first forward passes wait for parameters."""
        return self._gathered and self._gathering.beside

    @property
    def largest_owned(self) -> int:
        """Parameters of the largest share, where one rank owns each."""
        return max(share.held for shares in self.shares for share in shares)

    def _by_owner(self) -> list[list[Bucket]]:
        """As much for each rank, about, in order of use.

        InternEvo's core/communication/utils.py, ParamAsyncBcastHandler; no tensor is cut, so that
        some of many ranks own none.
        """
        wanted = self._parameters / self._groups.shard
        return [make_buckets(chunk, wanted, self._groups, pad=False) for chunk in self._chunks]

    def begin(self, builder: ProgramBuilder) -> None:
        """Issue the gathers with which a step begins; compute waits where none may run beside."""
        if not self._gathered:
            return
        emit = self._context.emitter()
        issued = [list(reversed(range(len(shares)))) for shares in self.shares]
        if self._gathering.chained:
            issued = [numbers[:1] for numbers in issued]
        for chunk, numbers in enumerate(issued):
            for number in numbers:
                mark = self._gather(emit, chunk, number, START)
                emit.output(f"{chunk} {_gathered(number)}", mark)
                if not self._gathering.beside:
                    emit.wait(mark)
        marks = builder.place(emit.finish())
        self.marks = [
            {_gathered(i): marks[f"{chunk} {_gathered(i)}"] for i in numbers}
            for chunk, numbers in enumerate(issued)
        ]

    def hook(self, chunk: int) -> Hooks:
        """What makes a chunk's first forward pass wait for its parameters."""
        shares = self.shares[chunk]
        if not self._gathering.chained:
            return AwaitParameters(shares)
        return AwaitParameters(
            shares, lambda emit, share: self._gather(emit, chunk, share, emit.now())
        )

    def _gather(self, emit: Emitter, chunk: int, number: int, after: Mark) -> Mark:
        """Issue the gather of one share of a chunk's parameters once `after` is done."""
        share, beside = self.shares[chunk][number], self._gathering.beside
        size = self._context.gathered_bytes(share.parameters, share.quantized)
        groups, messages = self._groups.of(share.expert), self._messages(chunk, share)
        marks = [
            groups.gather(emit, size / messages, after, beside=beside) for _ in range(messages)
        ]
        return marks[-1]

    def _messages(self, chunk: int, share: Bucket) -> int:
        """In how many messages a share comes: one for each weight that has its own owner."""
        if not self._groups.whole:
            return 1
        layers = self._chunks[chunk]
        tensors = max(layers[position][1].modules[part].tensors for position, part in share.modules)
        owners = share.held * self._groups.shard // max(self._parameters, 1)
        return max(1, min(tensors, owners))


class AwaitParameters(Hooks):
    """Makes each module of the first forward pass wait for the share that holds its parameters.

    The gathers themselves are issued when the step begins, in the order of use, so that later
    stages gather while the pipeline fills. The mark of share i is the template's input
    `_gathered(i)`. With `issue` only the first is: it issues the next share's gather once one is
    needed, as Megatron-LM's `finish_param_sync` does (core/distributed/param_and_grad_buffer.py).
    """

    def __init__(
        self, shares: list[Bucket], issue: Callable[[Emitter, int], Mark] | None = None
    ) -> None:
        self._of = {m: i for i, share in enumerate(shares) for m in share.modules}
        self._awaited: set[int] = set()
        self._issue = issue
        self._next = len(shares) - 2
        self._marks: dict[int, Mark] = {}

    def before_forward(self, emit: Emitter, position: int, part: int) -> None:
        """Wait for the share that this module needs, and have the next one gathered."""
        share = self._of.get((position, part))
        if share is None or share in self._awaited:
            return
        self._issue_down_to(emit, share)
        emit.wait(self._marks.get(share, Input(_gathered(share))))
        self._awaited.add(share)
        self._issue_down_to(emit, share - 1)

    def _issue_down_to(self, emit: Emitter, share: int) -> None:
        while self._issue is not None and self._next >= max(share, 0):
            self._marks[self._next] = self._issue(emit, self._next)
            self._next -= 1


def _gathered(share: int) -> str:
    """Name of the mark at which a share's parameters are there."""
    return f"gathered {share}"
