"""Law: what ZeRO-2 and -3 would cost in a pipeline is what ZeRO-1 moves, each time again."""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import desim
from desim.cli import main
from desim.errors import SpecError
from desim.units import parse, show
from tests.cli.conftest import ROOT
from tests.jobs import BASE, job, play

MOVED = {2: "grad reduce", 3: "param gather"}
JOBS: tuple[dict[str, Any], ...] = (
    {},
    {"tensor": 2},
    {"virtual_stages": 2},
    {"shard": 2},
    {"context": 2},
)


def refusal(zero: int, parallel: dict[str, Any], **policies: Any) -> str:
    mapping = deepcopy(BASE)
    mapping["workload"]["global_batch"] = 32
    mapping["parallel"] = {"pipeline": 2, **parallel, "zero": zero}
    mapping["policies"] = policies
    with pytest.raises(SpecError) as caught:
        desim.load(mapping)
    (mistake,) = caught.value.mistakes
    assert mistake.path == "parallel.zero"
    return mistake.rule


@pytest.mark.parametrize("parallel", JOBS)
@pytest.mark.parametrize("zero", [2, 3])
def test_the_bytes_are_those_of_a_zero_1_run(zero: int, parallel: dict[str, Any]) -> None:
    """Of every stage, as its collectives of one step carry them; the fullest is named."""
    policies: dict[str, Any] = {"fsdp": {"reshard_after_forward": False}}
    if "virtual_stages" in parallel:
        policies["schedule"] = "interleaved"
    played = play(
        job(
            workload__global_batch=32,
            parallel={"pipeline": 2, **parallel, "zero": 1},
            policies=policies,
        )
    )
    totals = {}
    for number, rank in enumerate(played.record.classes):
        rows = played.rows(number, name=MOVED[zero])
        totals[rank.coordinate["pp"]] = float(np.sum(played.spans(number).size_bytes[rows]))
    stage = max(totals, key=lambda stage: totals[stage])
    count = played.plan.context.micro_batches
    rule = refusal(zero, parallel, **policies)
    once, whole = show(totals[stage], "bytes"), show(count * totals[stage], "bytes")
    assert f": {count} micro-batches x {once} (stage {stage}) = {whole} per rank" in rule
    assert rule.endswith(f"{once} under zero: 1")


def test_layers_that_are_freed_are_gathered_twice() -> None:
    kept = refusal(3, {}, fsdp={"reshard_after_forward": False})
    freed = refusal(3, {})
    assert "x 2 (forward and backward) x" in freed
    sizes = [re.search(r"= ([\d.]+ \w+) per rank", rule) for rule in (kept, freed)]
    one, two = (parse(found.group(1), "bytes") for found in sizes if found)
    assert two == pytest.approx(2 * one, rel=1e-3)


def test_two_pipelines_have_half_of_the_micro_batches_each() -> None:
    """DualPipe holds two chunks and sends half of the micro-batches through each."""
    one = refusal(2, {})
    both = refusal(2, {}, schedule="dualpipe")
    assert ": 8 micro-batches x " in one
    assert ": 4 micro-batches x " in both


def test_a_job_with_other_mistakes_is_refused_for_all() -> None:
    """What it would cost is then not known; nothing else is lost."""
    mapping = deepcopy(BASE)
    mapping["parallel"] = {"pipeline": 2, "zero": 3, "tensor": 3}
    with pytest.raises(SpecError) as caught:
        desim.load(mapping)
    paths = [mistake.path for mistake in caught.value.mistakes]
    assert "parallel.zero" in paths
    assert len(paths) > 1


def test_without_replicas_there_is_nobody_to_share_with() -> None:
    assert refusal(3, {"tensor": 4}).endswith("instead of once)")


@pytest.mark.parametrize("command", ["run", "check", "compare"])
def test_every_command_says_it(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(ROOT / "scenarios" / "llama70b_2048.yaml")]
    words = {
        "run": [*given, "--set", "parallel.zero=2"],
        "check": ["check", *given, "--set", "parallel.zero=2"],
        "compare": ["compare", *given, "--vary", "parallel.zero=1,2", "--out", str(tmp_path)],
    }
    assert main(words[command]) == 2
    assert re.search(r"once\): 32 micro-batches x .* under zero: 1", capsys.readouterr().err)
