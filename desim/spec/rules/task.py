"""Rules of the task: what is trained."""

from __future__ import annotations

from collections.abc import Iterator

from desim.spec.rules.finding import Finding, Rule
from desim.spec.scenario import Scenario
from desim.spec.workload import Transformer

_PATH = "workload.lora"


def adapters_need_their_task(scenario: Scenario) -> Iterator[Finding]:
    """Adapters belong to `task: lora`, which needs linear layers of a transformer."""
    workload = scenario.workload
    if workload.task == "lora" and not isinstance(workload.model, Transformer):
        rule = "adapters stand beside the linear layers of a transformer"
        yield Finding("workload.task", rule, workload.task, "set task: pretrain")
    if workload.task != "lora" and workload.lora is not None:
        text = f"has no effect with task: {workload.task}, which trains all parameters"
        yield Finding(_PATH, text, workload.lora.rank, "set task: lora", note=True)


def adapters_fit(scenario: Scenario) -> Iterator[Finding]:
    """A target has one adapter, narrower than the layer beside it."""
    lora, model = scenario.workload.adapters, scenario.workload.model
    if lora is None or not isinstance(model, Transformer):
        return
    if len(set(lora.targets)) < len(lora.targets):
        yield Finding(f"{_PATH}.targets", "names a layer twice", list(lora.targets), "once each")
    if lora.rank > model.hidden:
        rule = f"must not exceed the model's hidden width ({model.hidden})"
        yield Finding(f"{_PATH}.rank", rule, lora.rank, "as in 16")


RULES = (
    Rule(adapters_need_their_task, ("workload.task", _PATH, "workload.model")),
    Rule(adapters_fit, ("workload.task", _PATH, "workload.model")),
)
