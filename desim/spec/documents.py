"""Documents that training sequences are packed of, each of which attends to itself alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Gt, Le
from pydantic import Field

from desim.spec.base import PositiveInt, Spec

if TYPE_CHECKING:
    from desim.spec.scenario import Scenario

#: Sequences whose longest documents, of which there is no closed form, are averaged.
SAMPLE = 1024


class Documents(Spec):
    """Documents in a sequence, with attention of variable length (FlashAttention `cu_seqlens`).

    Megatron-LM `--reset-position-ids --reset-attention-mask`, its packed sequences (`qkv_format:
    thd`), torchtitan `attn_mask_type: block_causal`. A document of l tokens has l^2 scores of
    attention (half of them under a causal mask); nothing else of a step changes. Ranks that share a
    sequence (`parallel.context`) have an equal part of every document.
    """

    distribution: Literal["lognormal", "fixed", "listed"] = "lognormal"
    """Lengths: drawn from a log-normal, all alike, or drawn from `lengths`. Drawn ones are joined
    to a stream that is cut into sequences, a document at a cut into two (Megatron-LM's GPT
    dataset); `fixed` begins every sequence with a document and cuts the last short."""
    mean_tokens: PositiveInt | None = None
    """Mean length; `listed` has that of its list."""
    sigma: Annotated[float, Gt(0), Le(3)] = 1.0
    """Deviation of the logarithm of a length under `lognormal`."""
    lengths: tuple[PositiveInt, ...] | None = Field(default=None, strict=False, min_length=1)
    """Lengths of `listed`, in tokens: a sample or the middles of a histogram."""
    weights: tuple[Annotated[float, Gt(0)], ...] | None = Field(default=None, strict=False)
    """How many documents have each of the `lengths`, in any unit; left out: as many each."""
    vary: Literal["none", "micro_batch"] = "none"
    """`none`: every micro-batch has the work that is expected of the distribution. `micro_batch`:
    each of each data-parallel rank has documents of its own, drawn with the seed of the run, so
    that ranks wait for each other, which counts as waiting, not as bubble, as far as it exceeds
    that under `none`; every step plays the same draws."""
    replicas: PositiveInt | None = None
    """Data-parallel ranks with draws of their own under `vary: micro_batch`; the next have those of
    the first again, and so on. All where left out, each of which is then played."""


def are_drawn(scenario: Scenario) -> bool:
    """Whether micro-batches have documents of their own that attention kernels skip scores for."""
    documents = scenario.workload.documents
    if documents is None or scenario.workload.model.family != "transformer":
        return False
    drawn = documents.vary == "micro_batch" and documents.distribution != "fixed"
    return drawn and scenario.kernels.attention != "unfused"
