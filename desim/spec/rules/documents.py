"""Rules of packed documents: what their lengths need, and where they make no difference."""

from __future__ import annotations

from collections.abc import Iterator

from desim.spec.documents import SAMPLE, Documents, are_drawn
from desim.spec.rules.finding import Finding, Rule, data_size
from desim.spec.scenario import Scenario
from desim.spec.workload import Transformer

_PATH = "workload.documents"
#: Lengths that are drawn in seconds.
_MOST_DRAWN = 10**8
#: Ranks with draws of their own that are advised where all are many.
_FEW = 4


def documents_have_lengths(scenario: Scenario) -> Iterator[Finding]:
    """A distribution has what it is made of."""
    documents = scenario.workload.documents
    if documents is None:
        return
    kind, lengths, weights = documents.distribution, documents.lengths, documents.weights
    if kind == "listed" and lengths is None:
        rule = "must be given: distribution: listed draws from a list of lengths in tokens"
        yield Finding(f"{_PATH}.lengths", rule, hint="as in [256, 1024, 4096]")
    if kind != "listed" and documents.mean_tokens is None:
        rule = f"must be given: distribution: {kind} has a mean length in tokens"
        hint = f"{scenario.workload.sequence_length} is a whole sequence"
        yield Finding(f"{_PATH}.mean_tokens", rule, hint=hint)
    if lengths is not None and weights is not None and len(lengths) != len(weights):
        rule = f"must hold one number for each of {len(lengths)} lengths, not {len(weights)}"
        yield Finding(f"{_PATH}.weights", rule, list(weights))


def documents_can_be_drawn(scenario: Scenario) -> Iterator[Finding]:
    """Documents much shorter than a sequence are too many to draw one by one."""
    workload, documents = scenario.workload, scenario.workload.documents
    if documents is None or documents.distribution == "fixed":
        return
    mean = documents.mean_tokens
    if documents.distribution == "listed" and documents.lengths:
        mean = min(documents.lengths)
    sequences = max(workload.global_batch, SAMPLE)
    tokens = workload.sequence_length * sequences
    if mean and tokens / mean > _MOST_DRAWN:
        name = "lengths" if documents.distribution == "listed" else "mean_tokens"
        rule = (
            f"desim draws at most {_MOST_DRAWN:.0e} documents: "
            f"{workload.sequence_length} x {sequences} tokens / {mean} = {tokens // mean}"
        )
        yield Finding(f"{_PATH}.{name}", rule, mean, f"at least {-(-tokens // _MOST_DRAWN)}")


def chunks_have_equal_documents(scenario: Scenario) -> Iterator[Finding]:
    """Ranks that share a sequence cut every document alike, which is a zigzag."""
    policies, model = scenario.policies, scenario.workload.model
    if scenario.workload.documents is None or scenario.parallel.context == 1:
        return
    shares = policies.context != "all_to_all" and scenario.kernels.attention != "unfused"
    causal = isinstance(model, Transformer) and model.causal
    if policies.context_balance == "contiguous" and shares and causal:
        rule = (
            "with workload.documents every context rank has an equal part of each document (as "
            "Transformer Engine cuts them); one chunk of the sequence each is not played"
        )
        yield Finding("policies.context_balance", rule, "contiguous", "set zigzag")


def documents_are_used(scenario: Scenario) -> Iterator[Finding]:
    """What a job or a distribution has no use for is named, not refused."""
    documents = scenario.workload.documents
    if documents is None:
        return
    if not isinstance(scenario.workload.model, Transformer):
        yield Finding(_PATH, "has no effect: the model has no attention", note=True)
        return
    usual = Documents()
    for name, value, reason in _unused(scenario, documents):
        if value != getattr(usual, name):
            shown = list(value) if isinstance(value, tuple) else value
            yield Finding(f"{_PATH}.{name}", f"has no effect: {reason}", shown, note=True)
    if scenario.kernels.attention == "unfused":
        text = "saves no time: unfused attention computes the whole square of scores"
        yield Finding(_PATH, text, hint="attention: flash2 skips what is masked", note=True)
    elif scenario.parallel.context > 1:
        text = (
            "every context rank is taken to have an equal part of each document (cut in 2 x "
            f"{scenario.parallel.context} chunks, as Transformer Engine does): work is balanced"
        )
        yield Finding(_PATH, text, note=True)


def _unused(scenario: Scenario, documents: Documents) -> Iterator[tuple[str, object, str]]:
    """Fields of documents that nothing reads, with their values, and why."""
    kind = documents.distribution
    if kind == "listed":
        yield "mean_tokens", documents.mean_tokens, "the mean is that of lengths"
    else:
        for name in ("lengths", "weights"):
            reason = f"distribution: {kind} goes by mean_tokens"
            yield name, getattr(documents, name), reason
    if kind != "lognormal":
        yield "sigma", documents.sigma, f"distribution: {kind} has no sigma"
    mean, length = documents.mean_tokens, scenario.workload.sequence_length
    if kind == "fixed" and mean is not None and mean >= length:
        yield "mean_tokens", mean, f"every sequence of {length} tokens is in one document"
    if kind == "fixed":
        yield "vary", documents.vary, "fixed documents are the same in every sequence"
    elif scenario.kernels.attention == "unfused":
        yield "vary", documents.vary, "unfused attention takes as long for any documents"
    if not are_drawn(scenario):
        yield "replicas", documents.replicas, "micro-batches do not vary"


def replicas_are_played(scenario: Scenario) -> Iterator[Finding]:
    """Data-parallel ranks that differ cannot be folded, which takes time."""
    size, documents = data_size(scenario), scenario.workload.documents
    if documents is None or size is None or not are_drawn(scenario):
        return
    number = min(size, documents.replicas or size)
    if number == 1:
        return
    text = (
        f"plays {number} of {size} data-parallel ranks, each with documents of its own, which takes"
        f" about {number} times as long as vary: none or longer"
    )
    many = documents.replicas is None and size > _FEW
    hint = f"replicas: {_FEW} plays {_FEW}, which others repeat" if many else ""
    yield Finding(f"{_PATH}.vary", text, documents.vary, hint, note=True)


_READS = ("workload", "kernels.attention", "parallel", "policies")

RULES = (
    Rule(documents_have_lengths, ("workload.documents", "workload.sequence_length")),
    Rule(documents_can_be_drawn, ("workload",)),
    Rule(chunks_have_equal_documents, _READS),
    Rule(documents_are_used, _READS),
    Rule(replicas_are_played, (*_READS, "cluster.devices")),
)
