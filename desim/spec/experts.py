"""Policies of experts: how rows travel, beside what, and how unevenly they fall."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le
from pydantic import Field

from desim.spec.base import PositiveInt, Spec


class Experts(Spec):
    """How tokens reach their experts, and how unevenly they fall on them."""

    shared: Literal["before", "beside"] = "before"
    """When the shared expert runs: before the router, or beside the all-to-alls, its first half
    beside the dispatch and its second beside the return."""
    chunks: PositiveInt = 1
    """Parts in which rows travel to the experts and back: the all-to-alls of one run beside the
    matrix products of another, which get shorter."""
    load: tuple[Annotated[float, Gt(0)], ...] | None = Field(default=None, strict=False)
    """Tokens of each of the `parallel.expert` ranks that share the experts, in any unit; left out:
    all alike. Ranks compute their own and wait for the busiest, which paces the all-to-alls."""
    spread: Annotated[float, Ge(0), Le(3)] = 0.0
    """Without `load`: deviation of the logarithm of the tokens of an expert, drawn for each with
    the seed of the run."""
    dispatch: Literal["all_to_all", "node_first"] = "all_to_all"
    """Whether a row is sent to each of its experts, or once to each node that it is for, over the
    sender's rail, and copied there over NVLink; results are added up in the node on their way back
    (DeepEP). DeepEP sends a row once to each rank too, which this does not count: inside the node
    it moves up to a fifth less."""
    max_nodes: PositiveInt | None = None
    """Nodes (NVLink domains) whose experts the router may choose for one token; left out: all
    (DeepSeek-V3: 4)."""
    passes: Literal["auto", "apart", "joined"] = "auto"
    """`joined`: a stage plays a forward and a backward pass of two micro-batches as one, their
    kernels in turns, so that the all-to-alls of one run beside what the other computes (F&B of
    DeepSeek-V3's DualPipe; Megatron-LM's combined 1F1B): those of `dualpipe` and `dualpipe_v`, and
    of the steady phase of `interleaved` and, on one stage, of `1f1b`, which then begin with a
    forward pass more and hold its activations. `apart`: one after the other. `auto`: joined under
    `dualpipe` and `dualpipe_v`, else apart."""
    delay_wgrad: bool = False
    """Whether a backward pass computes the weight gradients of a part of a block once the gradient
    of its input is on its way to other experts, beside that (the W of DeepSeek-V3's F&B); not where
    the schedule gives them a pass of their own. Reductions over the tensor group that they else run
    beside are exposed then (Transformer Engine waits for them at once, too)."""
