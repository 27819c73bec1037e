"""Rules of the model: how its layers, heads and sequence may be cut."""

from __future__ import annotations

from collections.abc import Iterator

from desim.spec.rules.finding import (
    Finding,
    Rule,
    nearest_divisors,
    nearest_multiples,
    num_chunks,
)
from desim.spec.scenario import Scenario
from desim.spec.workload import Dlrm, Transformer

_TENSOR = ("parallel.tensor",)
_CUT = (
    "parallel.pipeline", "parallel.virtual_stages", "policies.schedule", "workload.model.layers",
)  # fmt: skip


def _transformer(scenario: Scenario) -> Transformer | None:
    model = scenario.workload.model
    return model if isinstance(model, Transformer) else None


def layers_divide(scenario: Scenario) -> Iterator[Finding]:
    """Every stage gets the same number of layers unless `stage_layers` says otherwise."""
    model = _transformer(scenario)
    parallel, chunks = scenario.parallel, num_chunks(scenario)
    if model is None or parallel.stage_layers is not None or model.layers % chunks == 0:
        return
    virtual = chunks // parallel.pipeline
    factors = f"{parallel.pipeline} x {virtual} = {chunks}" if virtual > 1 else str(chunks)
    name = "pipeline x virtual_stages" if virtual > 1 else "pipeline"
    rule = (
        f"{name} must divide the model's {model.layers} layers: "
        f"{model.layers} / {factors} leaves {model.layers % chunks}"
    )
    fits = model.layers // virtual if model.layers % virtual == 0 else model.layers
    hint = (
        f"nearest: pipeline: {nearest_divisors(fits, parallel.pipeline)}, or give stage_layers: "
        f"{chunks} numbers that add up to {model.layers}"
    )
    yield Finding("parallel.pipeline", rule, parallel.pipeline, hint)


def stage_layers_add_up(scenario: Scenario) -> Iterator[Finding]:
    """`stage_layers` has one entry a chunk and places every layer."""
    model, stages = _transformer(scenario), scenario.parallel.stage_layers
    if model is None or stages is None:
        return
    chunks = num_chunks(scenario)
    if 0 in stages[1:-1]:
        rule = "only the first stage (embedding) and the last (head) may hold no layer"
        yield Finding("parallel.stage_layers", rule, list(stages))
    elif len(stages) != chunks:
        rule = f"must hold one number for each of {chunks} stages, not {len(stages)}"
        yield Finding("parallel.stage_layers", rule, list(stages))
    elif sum(stages) != model.layers:
        rule = f"must add up to the model's {model.layers} layers, not {sum(stages)}"
        change = model.layers - sum(stages)
        hint = f"{'add' if change > 0 else 'take away'} {abs(change)}"
        yield Finding("parallel.stage_layers", rule, list(stages), hint)


def _cut_by_tensor(model: Transformer) -> list[tuple[str, int]]:
    """Return the names and sizes that tensor parallelism divides, besides the heads of keys."""
    sizes = [("heads", model.heads)]
    if model.dense_layers:
        sizes.append(("ffn", model.ffn))
    if model.moe and model.moe.shared_ffn:
        sizes.append(("moe.shared_ffn", model.moe.shared_ffn))
    return sizes


def heads_divide(scenario: Scenario) -> Iterator[Finding]:
    """Tensor parallelism cuts attention by heads and the MLP by columns."""
    model, tensor = _transformer(scenario), scenario.parallel.tensor
    if model is None:
        return
    for name, size in _cut_by_tensor(model):
        if size % tensor:
            rule = f"must divide the model's {name}: {size} / {tensor} leaves {size % tensor}"
            hint = f"nearest: {nearest_divisors(size, tensor)}"
            yield Finding("parallel.tensor", rule, tensor, hint)
    if model.kv_heads % tensor and tensor % model.kv_heads:
        rule = f"must divide the model's kv_heads ({model.kv_heads}) or be a multiple of them"
        hint = f"nearest: {nearest_divisors(model.kv_heads, tensor)}"
        yield Finding("parallel.tensor", rule, tensor, hint)


def heads_share_keys(scenario: Scenario) -> Iterator[Finding]:
    """Grouped-query attention gives every key head the same number of query heads."""
    model = _transformer(scenario)
    if model is not None and model.heads % model.kv_heads:
        rest = model.heads % model.kv_heads
        rule = f"must divide heads: {model.heads} / {model.kv_heads} leaves {rest}"
        hint = f"nearest: {nearest_divisors(model.heads, model.kv_heads)}"
        yield Finding("workload.model.kv_heads", rule, model.kv_heads, hint)


def vocabulary_is_padded(scenario: Scenario) -> Iterator[Finding]:
    """A vocabulary that the tensor group cannot share evenly is padded."""
    model, tensor = _transformer(scenario), scenario.parallel.tensor
    if model is not None and model.vocab % tensor:
        text = f"a vocabulary of {model.vocab} does not divide by tensor {tensor} and is padded"
        yield Finding("workload.model.vocab", text, model.vocab, note=True)


def sequence_divides(scenario: Scenario) -> Iterator[Finding]:
    """Context ranks hold two chunks each (causal balance); tensor ranks share what they hold."""
    if _transformer(scenario) is None:
        return
    length, parallel = scenario.workload.sequence_length, scenario.parallel
    unit, why = 1, ""
    if parallel.context > 1:
        unit, why = 2 * parallel.context, f"2 x context = {2 * parallel.context}"
    if parallel.sequence and parallel.tensor > 1 and length % unit == 0:
        local = parallel.context * parallel.tensor
        if length % local:
            unit, why = local, f"context x tensor = {local} (sequence parallel)"
    if length % unit:
        rule = f"must be a multiple of {why}: {length} / {unit} leaves {length % unit}"
        hint = f"nearest: {nearest_multiples(length, unit)}"
        yield Finding("workload.sequence_length", rule, length, hint)


def sequence_is_given(scenario: Scenario) -> Iterator[Finding]:
    """A transformer reads sequences, a recommendation model does not."""
    model, length = scenario.workload.model, scenario.workload.sequence_length
    if isinstance(model, Transformer):
        if length == 1:
            rule = "must be given for a transformer, in tokens"
            yield Finding("workload.sequence_length", rule, length, "as in 4096")
        elif model.position == "learned" and length > model.max_positions:
            rule = f"must not exceed the model's max_positions ({model.max_positions})"
            yield Finding("workload.sequence_length", rule, length)
    elif length != 1:
        rule = "a recommendation model has no sequence"
        yield Finding("workload.sequence_length", rule, length, "leave it out")


def dlrm_is_data_parallel(scenario: Scenario) -> Iterator[Finding]:
    """The MLPs of a recommendation model are copied, its tables spread."""
    if not isinstance(scenario.workload.model, Dlrm):
        return
    for axis in ("tensor", "context", "pipeline"):
        size = getattr(scenario.parallel, axis)
        if size > 1:
            rule = "a recommendation model is cut by embedding tables and data only"
            yield Finding(f"parallel.{axis}", rule, size, f"set {axis}: 1")
    zero = scenario.parallel.zero
    if zero > 1:
        rule = "the MLPs of a recommendation model are copied on every rank"
        yield Finding("parallel.zero", rule, zero, "set zero: 0")


def context_exchange_fits(scenario: Scenario) -> Iterator[Finding]:
    """A ring and an all-to-all need fused kernels; an all-to-all gives each rank whole heads."""
    model, parallel = _transformer(scenario), scenario.parallel
    exchange, usual = scenario.policies.context, type(scenario.policies)().context
    if model is None or parallel.context == 1:
        if exchange != usual:
            text = "has no effect: parallel.context is 1, no sequence is shared"
            yield Finding("policies.context", text, exchange, note=True)
        return
    if exchange == "all_gather":
        return
    if scenario.kernels.attention == "unfused":
        rule = "needs a fused attention kernel, which leaves a log-sum-exp or takes any heads"
        hint = "set all_gather, or kernels.attention: flash2"
        yield Finding("policies.context", rule, exchange, hint)
    held = max(1, model.kv_heads // parallel.tensor)
    if exchange == "all_to_all" and held % parallel.context:
        rule = (
            f"exchanges heads: context must divide the {held} kv_heads of a tensor rank: "
            f"{held} / {parallel.context} leaves {held % parallel.context}"
        )
        hint = f"set context: {nearest_divisors(held, parallel.context)}, or policies.context: ring"
        yield Finding("policies.context", rule, exchange, hint)


RULES = (
    Rule(layers_divide, (*_CUT, "parallel.stage_layers")),
    Rule(stage_layers_add_up, (*_CUT, "parallel.stage_layers")),
    Rule(heads_divide, (*_TENSOR, "workload.model")),
    Rule(heads_share_keys, ("workload.model",)),
    Rule(vocabulary_is_padded, (*_TENSOR, "workload.model.vocab")),
    Rule(
        sequence_divides,
        (*_TENSOR, "parallel.context", "parallel.sequence", "workload.sequence_length"),
    ),
    Rule(sequence_is_given, ("workload.sequence_length", "workload.model")),
    Rule(
        context_exchange_fits,
        (
            *_TENSOR,
            "parallel.context",
            "policies.context",
            "kernels.attention",
            "workload.model",
        ),
    ),  # fmt: skip
    Rule(
        dlrm_is_data_parallel,
        (*_TENSOR, "parallel.context", "parallel.pipeline", "parallel.zero", "workload.model"),
    ),
)
