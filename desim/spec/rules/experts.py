"""Rules of mixtures of experts and latent attention: sizes, groups, and what goes together."""

from __future__ import annotations

from collections.abc import Iterator

from desim.spec.joined import unjoined
from desim.spec.rules.finding import Finding, Rule, data_size, micro_batches, nearest_divisors
from desim.spec.scenario import Scenario
from desim.spec.schedules import ZERO_BUBBLE
from desim.spec.workload import Transformer

_MODEL = ("workload.model",)
_GROUPS = (
    "workload.model", "parallel.tensor", "parallel.context", "parallel.pipeline", "parallel.data",
    "cluster.devices", "parallel.expert", "parallel.expert_tensor",
)  # fmt: skip


def _mixture(scenario: Scenario) -> Transformer | None:
    model = scenario.workload.model
    return model if isinstance(model, Transformer) and model.moe else None


def experts_need_a_moe(scenario: Scenario) -> Iterator[Finding]:
    """Expert parallelism needs experts."""
    if _mixture(scenario):
        return
    name, parallel = scenario.workload.model.name, scenario.parallel
    if parallel.expert != 1:
        rule = f"{name} has no experts to spread"
        yield Finding("parallel.expert", rule, parallel.expert, "set expert: 1")
    if parallel.expert_tensor is not None:
        rule = f"{name} has no experts to cut"
        hint = "leave it out"
        yield Finding("parallel.expert_tensor", rule, parallel.expert_tensor, hint)


def choices_exist(scenario: Scenario) -> Iterator[Finding]:
    """A token visits no more experts than there are, and some layers have them."""
    model = _mixture(scenario)
    if model is None or model.moe is None:
        return
    moe, path = model.moe, "workload.model.moe"
    if moe.top_k > moe.experts:
        rule = f"must not exceed the {moe.experts} experts"
        yield Finding(f"{path}.top_k", rule, moe.top_k)
    if model.dense_layers == model.layers:
        rule = f"leaves none of the model's {model.layers} layers with experts"
        key = "every" if moe.dense_layers < model.layers else "dense_layers"
        yield Finding(f"{path}.{key}", rule, getattr(moe, key), "leave moe out")
    if moe.capacity_factor is not None and moe.imbalance != 1:
        text = "has no effect with a capacity_factor: every expert has as many rows"
        yield Finding(f"{path}.imbalance", text, moe.imbalance, note=True)
    if moe.shared_gate and not moe.shared_ffn:
        text = "has no effect without a shared expert (shared_ffn)"
        yield Finding(f"{path}.shared_gate", text, True, note=True)


def experts_divide(scenario: Scenario) -> Iterator[Finding]:
    """Expert ranks hold equally many experts; expert tensor ranks equal parts of each."""
    model, parallel = _mixture(scenario), scenario.parallel
    if model is None or model.moe is None:
        return
    experts, ranks = model.moe.experts, parallel.expert
    if experts % ranks:
        rule = f"must divide the model's experts: {experts} / {ranks} leaves {experts % ranks}"
        hint = f"nearest: {nearest_divisors(experts, ranks)}"
        yield Finding("parallel.expert", rule, ranks, hint)
    tensor = parallel.expert_tensor or parallel.tensor
    ffn = model.moe.ffn
    if ffn % tensor:
        rule = f"must divide the experts' ffn: {ffn} / {tensor} leaves {ffn % tensor}"
        hint = f"nearest: {nearest_divisors(ffn, tensor)}"
        yield Finding("parallel.expert_tensor", rule, tensor, hint)


def expert_groups_fit(scenario: Scenario) -> Iterator[Finding]:
    """Expert groups are cut from the ranks of one pipeline stage."""
    size, parallel = data_size(scenario), scenario.parallel
    if _mixture(scenario) is None or size is None:
        return
    tensor = parallel.expert_tensor or parallel.tensor
    ranks = parallel.tensor * parallel.context * size
    if ranks % (parallel.expert * tensor):
        rule = (
            "expert x expert_tensor must divide tensor x context x data: "
            f"{parallel.expert} x {tensor} = {parallel.expert * tensor}, "
            f"{parallel.tensor} x {parallel.context} x {size} = {ranks}"
        )
        hint = ""
        if ranks % tensor == 0:
            hint = f"nearest: {nearest_divisors(ranks // tensor, parallel.expert)}"
        yield Finding("parallel.expert", rule, parallel.expert, hint)
        return
    order = parallel.order.split("-")
    own = parallel.expert > 1 or tensor != parallel.tensor
    if own and "pp" in order and order[-1] != "pp" and parallel.pipeline > 1:
        rule = "expert groups are cut from the ranks of one stage, which must be neighbours"
        yield Finding("parallel.order", rule, parallel.order, "put pp last")


def experts_share_states(scenario: Scenario) -> Iterator[Finding]:
    """Parameters of experts have data-parallel groups of their own, which not all layouts play."""
    parallel = scenario.parallel
    tensor = parallel.expert_tensor or parallel.tensor
    if _mixture(scenario) is None or (parallel.expert == 1 and tensor == parallel.tensor):
        return
    if parallel.zero == 3:
        rule = "zero: 3 gathers whole layers; experts with groups of their own are not played"
        yield Finding("parallel.zero", rule, 3, "set zero: 1, or expert: 1")
    if parallel.shard is not None:
        rule = "experts with groups of their own are sharded over all copies of them"
        yield Finding("parallel.shard", rule, parallel.shard, "leave shard out, or set expert: 1")


def experts_need_own_tokens(scenario: Scenario) -> Iterator[Finding]:
    """Tensor ranks that hold the same tokens would send each of them to its experts."""
    parallel = scenario.parallel
    if _mixture(scenario) and parallel.tensor > 1 and not parallel.sequence:
        rule = "experts with tensor parallelism need every rank to hold its own tokens"
        yield Finding("parallel.sequence", rule, False, "set sequence: true, or tensor: 1")


def counts_are_read_back(scenario: Scenario) -> Iterator[Finding]:
    """A host that has to read token counts cannot launch a pass as a graph."""
    model = _mixture(scenario)
    if model is None or model.moe is None or model.moe.capacity_factor is not None:
        return
    if scenario.kernels.cuda_graphs:
        rule = "a captured pass cannot hold the host back, which dropless experts do"
        hint = "set cuda_graphs: false, or give workload.model.moe.capacity_factor"
        yield Finding("kernels.cuda_graphs", rule, True, hint)


def latent_attention_fits(scenario: Scenario) -> Iterator[Finding]:
    """Latent attention says the widths of heads itself and has a key for every query head."""
    model = scenario.workload.model
    if not isinstance(model, Transformer) or model.mla is None:
        return
    if model.head_dim != model.mla.query_head_dim:
        rule = f"must be nope_head_dim + rope_head_dim = {model.mla.query_head_dim}"
        yield Finding("workload.model.head_dim", rule, model.head_dim)
    if model.kv_heads != model.heads:
        rule = f"latent attention has a key for each of {model.heads} heads"
        yield Finding("workload.model.kv_heads", rule, model.kv_heads, f"set {model.heads}")
    for name in ("bias", "qk_norm"):
        if getattr(model, name):
            rule = "latent attention has none"
            yield Finding(f"workload.model.{name}", rule, True, f"set {name}: false")
    if model.position != "rope":
        rule = "latent attention has rotary positions"
        yield Finding("workload.model.position", rule, model.position, "set position: rope")


def adapters_have_dense_layers(scenario: Scenario) -> Iterator[Finding]:
    """Adapters stand beside the linear layers of dense blocks."""
    model = scenario.workload.model
    if scenario.workload.adapters is None or not isinstance(model, Transformer):
        return
    for name, what in (("moe", "experts"), ("mla", "latent attention")):
        if getattr(model, name):
            rule = f"adapters beside {what} are not played"
            yield Finding("workload.task", rule, scenario.workload.task, "set task: pretrain")


def expert_policies_are_used(scenario: Scenario) -> Iterator[Finding]:
    """Choices about experts that the job has no use for are named, not refused."""
    policy = scenario.policies.experts
    usual = type(policy)()
    for name in type(policy).model_fields:
        value, reason = getattr(policy, name), _unused(scenario, name)
        if value != getattr(usual, name) and reason:
            text = f"has no effect: {reason}"
            yield Finding(f"policies.experts.{name}", text, value, note=True)


def _unused(scenario: Scenario, name: str) -> str:
    """Why the job has no use for a field of `policies.experts`, or nothing."""
    model, policy = _mixture(scenario), scenario.policies.experts
    if model is None or model.moe is None:
        return f"{scenario.workload.model.name} has no experts"
    if scenario.parallel.expert == 1:
        return "parallel.expert is 1, every rank has all experts"
    if name == "shared" and not model.moe.shared_ffn:
        return "the model has no shared expert"
    if name in ("load", "spread") and model.moe.capacity_factor is not None:
        return "with a capacity_factor every expert has as many rows"
    if name == "max_nodes" and policy.dispatch != "node_first":
        return "each expert is sent a copy of its own; dispatch: node_first sends one to a node"
    if name in ("dispatch", "max_nodes") and _nodes(scenario) == 1:
        return "expert groups stand in one NVLink domain"
    if name == "passes" and policy.passes == "joined":
        alone = micro_batches(scenario) == 1
        return "one micro-batch has no other to wait with" if alone else unjoined(scenario)
    if name == "delay_wgrad" and scenario.policies.schedule in ZERO_BUBBLE:
        return f"schedule {scenario.policies.schedule} gives weight gradients passes of their own"
    return "load says how many tokens each rank has" if name == "spread" and policy.load else ""


def _nodes(scenario: Scenario) -> int:
    """NVLink domains of an expert group whose ranks are neighbours."""
    parallel = scenario.parallel
    ranks = parallel.expert * (parallel.expert_tensor or parallel.tensor)
    return max(1, ranks // scenario.cluster.system.nvlink_domain)


def experts_are_in_reach(scenario: Scenario) -> Iterator[Finding]:
    """The nodes that a token may go to hold as many experts as it visits."""
    model, policy = _mixture(scenario), scenario.policies.experts
    limit, nodes = policy.max_nodes, _nodes(scenario)
    if model is None or model.moe is None or limit is None or policy.dispatch != "node_first":
        return
    each = model.moe.experts // nodes
    if limit < nodes and limit * each < model.moe.top_k:
        least = -(-model.moe.top_k // each)
        rule = (
            f"leaves too few experts to choose {model.moe.top_k} from: {limit} nodes x "
            f"{model.moe.experts} / {nodes} = {limit * each}"
        )
        yield Finding("policies.experts.max_nodes", rule, limit, f"nearest: {least}")


def experts_leave_these_out(scenario: Scenario) -> Iterator[Finding]:
    """What policies of experts take the place of, or cannot be recomputed apart with, is named."""
    model, policies = _mixture(scenario), scenario.policies
    if model is None or model.moe is None or scenario.parallel.expert == 1:
        return
    moe, policy = model.moe, policies.experts
    pinned = policies.collectives.all_to_all
    if policy.dispatch == "node_first" and pinned == "pairwise":
        text = "has no effect on experts: policies.experts.dispatch: node_first has two levels"
        yield Finding("policies.collectives.all_to_all", text, pinned, note=True)
    uneven = policy.load is not None or policy.spread > 0
    if uneven and moe.imbalance != 1 and moe.capacity_factor is None:
        text = "has no effect: policies.experts says how tokens fall on ranks"
        yield Finding("workload.model.moe.imbalance", text, moe.imbalance, note=True)
    again = policies.recompute_modules if policies.recompute == "selective" else ()
    path = "policies.recompute_modules"
    if "expert_activation" in again and policy.chunks > 1:
        text = "has no effect on experts in chunks, which run as one"
        yield Finding(path, text, "expert_activation", "experts recomputes them", note=True)
    if "activation" in again and policy.shared == "beside" and moe.shared_ffn:
        text = "has no effect on a shared expert that runs beside all-to-alls"
        yield Finding(path, text, "activation", "experts recomputes it", note=True)


def loads_fit(scenario: Scenario) -> Iterator[Finding]:
    """A load is given for each rank of an expert group."""
    load, ranks = scenario.policies.experts.load, scenario.parallel.expert
    if load is not None and _mixture(scenario) and ranks > 1 and len(load) != ranks:
        rule = f"must hold one number for each of {ranks} expert ranks, not {len(load)}"
        yield Finding("policies.experts.load", rule, list(load))


def expert_chunks_have_rows(scenario: Scenario) -> Iterator[Finding]:
    """Every chunk has a row for every expert of a rank."""
    model, parallel, workload = _mixture(scenario), scenario.parallel, scenario.workload
    chunks = scenario.policies.experts.chunks
    if model is None or model.moe is None or parallel.expert == 1:
        return
    split = parallel.context * (parallel.tensor if parallel.sequence else 1)
    tokens = workload.micro_batch * workload.sequence_length // split
    rows = tokens * model.moe.top_k * parallel.expert // model.moe.experts
    if chunks > max(rows, 1):
        rule = (
            "must not exceed the rows of an expert: "
            f"{tokens} tokens x {model.moe.top_k} x {parallel.expert} ranks / "
            f"{model.moe.experts} experts = {rows}"
        )
        yield Finding("policies.experts.chunks", rule, chunks, f"at most {max(rows, 1)}")


RULES = (
    Rule(experts_need_a_moe, (*_MODEL, "parallel.expert", "parallel.expert_tensor")),
    Rule(choices_exist, _MODEL),
    Rule(experts_divide, _GROUPS),
    Rule(expert_groups_fit, (*_GROUPS, "parallel.order")),
    Rule(experts_share_states, (*_GROUPS, "parallel.zero", "parallel.shard")),
    Rule(experts_need_own_tokens, (*_MODEL, "parallel.tensor", "parallel.sequence")),
    Rule(counts_are_read_back, (*_MODEL, "kernels.cuda_graphs")),
    Rule(latent_attention_fits, _MODEL),
    Rule(adapters_have_dense_layers, (*_MODEL, "workload.task", "workload.lora")),
    Rule(expert_policies_are_used, (*_GROUPS, "policies", "cluster.system", "workload")),
    Rule(experts_leave_these_out, (*_MODEL, "policies", "parallel.expert")),
    Rule(
        experts_are_in_reach,
        (*_GROUPS, "policies.experts", "cluster.system"),
    ),
    Rule(loads_fit, (*_MODEL, "policies.experts", "parallel.expert")),
    Rule(
        expert_chunks_have_rows,
        (
            *_GROUPS,
            "policies.experts",
            "parallel.sequence",
            "workload.micro_batch",
            "workload.sequence_length",
        ),
    ),
)
