"""Run the rules over a scenario and settle what they leave open."""

from __future__ import annotations

from collections.abc import Collection

from desim.errors import Mistake
from desim.spec.explain import locate
from desim.spec.nodes import Node, Path
from desim.spec.rules import (
    context,
    data,
    experts,
    mesh,
    model,
    orders,
    policy,
    precision,
    resources,
    schedule,
    task,
)
from desim.spec.rules.finding import Finding, Rule, data_size, num_chunks
from desim.spec.scenario import Scenario
from desim.spec.workload import Dlrm

RULES: tuple[Rule, ...] = (
    *mesh.RULES,
    *model.RULES,
    *experts.RULES,
    *schedule.RULES,
    *orders.RULES,
    *policy.RULES,
    *precision.RULES,
    *task.RULES,
    *context.RULES,
    *data.RULES,
    *resources.RULES,
)


def check(
    scenario: Scenario, root: Node, refused: Collection[Path] = ()
) -> tuple[list[Mistake], tuple[str, ...]]:
    """Return the mistakes and the notes of every rule that reads nothing already `refused`."""
    mistakes: list[Mistake] = []
    notes: list[str] = []
    for rule in RULES:
        if any(_touch(keys(path), other) for path in rule.reads for other in refused):
            continue
        for finding in rule.check(scenario):
            if finding.note:
                hint = f"; {finding.hint}" if finding.hint else ""
                notes.append(f"{finding.path}: {finding.rule}{hint}")
            else:
                mistakes.append(_mistake(finding, root))
    return mistakes, tuple(notes)


def settle(scenario: Scenario) -> Scenario:
    """Return a checked scenario with `data: auto` and settings without effect made definite."""
    update: dict[str, object] = {"data": data_size(scenario)}
    update["virtual_stages"] = num_chunks(scenario) // scenario.parallel.pipeline
    if isinstance(scenario.workload.model, Dlrm):
        update["zero"] = 0
    parallel = scenario.parallel.model_copy(update=update)
    return scenario.model_copy(update={"parallel": parallel})


def keys(path: str) -> Path:
    """Split a dotted path; list positions become numbers."""
    return tuple(int(key) if key.isdecimal() else key for key in path.split("."))


def _touch(path: Path, other: Path) -> bool:
    """Whether one path lies at or below the other."""
    shorter = min(len(path), len(other))
    return path[:shorter] == other[:shorter]


def _mistake(finding: Finding, root: Node) -> Mistake:
    file, line = locate(keys(finding.path), root)
    value = "" if finding.value == "" else _shown(finding.value)
    value = value if len(value) <= 60 else f"{value[:57]}..."
    return Mistake(finding.path, finding.rule, value, finding.hint, file, line)


def _shown(value: object) -> str:
    """Write a value as YAML has it."""
    return str(value).lower() if isinstance(value, bool) else repr(value)
