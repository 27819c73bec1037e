"""What a low-precision recipe adds to passes: quantised weights and the exchange of amax values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from desim.models.elementwise import elementwise_op
from desim.models.op import Comm
from desim.plan.passes import Direction, Hooks

if TYPE_CHECKING:
    from desim.plan.stages import Chunk
    from desim.plan.template import Emitter

#: Tensors of a linear layer with a scale of their own: input and weight forward, gradient backward.
_SCALED = {"forward": 2, "backward": 1}


_AMAX_BYTES = 4.0
_HISTORY = 1024  # amax_history_len of TE's DelayedScaling


class CastWeights(Hooks):
    """Quantises weights that are new: in the first micro-batch, or in every one under FSDP.

    Transformer Engine keeps the copies for the other micro-batches of a step
    (`is_first_microbatch`). Under FSDP (`kept_bytes` per parameter above 0) each pass makes its own
    and keeps them for its backward pass.
    """

    def __init__(self, chunk: Chunk, kept_bytes: float) -> None:
        self._chunk = chunk
        self._kept_bytes = kept_bytes

    def before_forward(self, emit: Emitter, position: int, part: int) -> None:
        """Quantise the module's weight."""
        module = self._chunk[position][1].modules[part]
        emit.memory("quantised weights", module.quantized * self._kept_bytes)
        emit.kernels(module.weight_casts)

    def after_backward(self, emit: Emitter, position: int, part: int) -> None:
        """Free the copies."""
        module = self._chunk[position][1].modules[part]
        emit.memory("quantised weights", -module.quantized * self._kept_bytes)


class ReduceAmax(Hooks):
    """Exchanges the amax values of a pass and updates the scales from their history.

    Transformer Engine does so when a pass leaves its fp8 region, with `DelayedScaling`: one small
    all-reduce over the ranks that share the scales, one kernel over the history of 1024 steps.
    Those are all `ranks` of the stage, in a communicator of their own (Megatron-LM's
    core/parallel_state.py, get_amax_reduction_group, without tp_only_amax_red).
    """

    def __init__(self, chunk: Chunk, ranks: int) -> None:
        self._ranks = ranks
        self._last = {"forward": len(chunk) - 1, "backward": 0}
        self._linears = sum(module.quantized > 0 for _, layer in chunk for module in layer.modules)

    def after_layer(self, emit: Emitter, direction: Direction, position: int) -> None:
        """Exchange and update after the last layer of a pass."""
        if position != self._last[direction] or not self._linears:
            return
        values = self._linears * _SCALED[direction]
        if self._ranks > 1:
            comm = Comm("amax", "all_reduce", values * _AMAX_BYTES, "amax")
            emit.wait(emit.collective(comm, lane="cp"))
        history = values * _HISTORY
        emit.kernel(
            elementwise_op("amax_update", "cast", "fp32", history, _AMAX_BYTES, _AMAX_BYTES)
        )
