"""`--retune`: each variant at the micro-batch and recomputation that suit it best.

A policy that saves memory pays only when the memory is used, and one that needs it must make room:
variants at one fixed setting hide both.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from desim.api import predict, predict_memory
from desim.errors import DeadlockError, Mistake, SpecError
from desim.pool import Pool
from desim.spec.load import load_scenario
from desim.study.axis import override

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from desim.spec.scenario import Scenario
    from desim.study.compare.variants import Source, Variant

#: What can be retuned -> its path.
PATHS = {"micro_batch": "workload.micro_batch", "recompute": "policies.recompute"}
#: Each computes again what the ones before it do, and more.
_RECOMPUTE = ("none", "selective", "full")


@dataclass(frozen=True, slots=True)
class Trial:
    """One micro-batch of a variant, and recomputation from the least upward until it fits."""

    source: Source
    overrides: tuple[str, ...]
    choices: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Found:
    """The first choice that fits in memory and its step time; None where none does."""

    choice: dict[str, Any] | None = None
    step_time_s: float = 0.0
    tried: int = 0


def parse_retune(text: str) -> tuple[str, ...]:
    """Return what `--retune` names; raises SpecError for what cannot be retuned."""
    names = tuple(part.strip() for part in text.split(","))
    for name in names:
        if name not in PATHS:
            close = difflib.get_close_matches(name, PATHS, n=1)
            rule = f"must be of {', '.join(PATHS)}"
            hint = f"did you mean {close[0]!r}?" if close else ""
            raise SpecError([Mistake("", rule, repr(name), hint, "--retune")])
    return tuple(dict.fromkeys(names))


def require_free(names: Sequence[str], varied: Sequence[str]) -> None:
    """Refuse to retune what is varied."""
    for name in names:
        if PATHS[name] in varied:
            rule = "is varied, so that it cannot be retuned as well"
            hint = f"leave it out of --vary or leave {name} out of --retune"
            raise SpecError([Mistake(PATHS[name], rule, hint=hint, file="--retune")])


def retune(
    variants: Sequence[Variant],
    names: Sequence[str],
    processes: int,
    begin: Callable[[str, float], None],
    done: Callable[[float], None],
) -> list[Variant]:
    """Return the variants, each at its fastest choice that fits in memory.

    `micro_batch` is tried at every divisor of a replica's batch. Of `recompute` the least that fits
    counts: at one micro-batch more of it only adds work. Where nothing fits a variant stays as it
    is. What was chosen is in its setting and its remark.
    """
    trials = [(n, t) for n, variant in enumerate(variants) for t in _trials(variant, names)]
    begin("retuning", float(len(trials)))
    pool: Pool[Trial, Found] = Pool(processes, try_out, lambda trial: Found(), lambda found: False)
    found = pool.map([trial for _, trial in trials], lambda _: 1.0, done)
    of_variant: list[list[Found]] = [[] for _ in variants]
    for (number, _), one in zip(trials, found, strict=True):
        of_variant[number].append(one)
    return [_best(*pair, names) for pair in zip(variants, of_variant, strict=True)]


def _trials(variant: Variant, names: Sequence[str]) -> list[Trial]:
    sizes = _divisors(variant.scenario) if "micro_batch" in names else [None]
    own = variant.scenario.policies.recompute
    levels = list(dict.fromkeys((*_RECOMPUTE[:2], own, _RECOMPUTE[2])))
    dense = variant.scenario.workload.model.family == "transformer"
    recompute = levels if "recompute" in names and dense else [None]
    trials = []
    for size in sizes:
        choices = []
        for level in recompute:
            choice = {PATHS["micro_batch"]: size, PATHS["recompute"]: level}
            choices.append({path: value for path, value in choice.items() if value is not None})
        trials.append(Trial(variant.source, variant.overrides, tuple(choices)))
    return trials


def _divisors(scenario: Scenario) -> list[int]:
    """Return the micro-batches that divide what a replica has in a step."""
    data = scenario.parallel.data
    each = scenario.workload.global_batch // (1 if data == "auto" else data)
    return [size for size in range(1, each + 1) if each % size == 0]


def try_out(trial: Trial) -> Found:
    """Return the first choice of a trial that may be run and fits, and how long its step takes."""
    for tried, choice in enumerate(trial.choices, start=1):
        try:
            scenario = _with(trial.source, trial.overrides, choice)[0]
            capacity = scenario.cluster.system.device.memory_bytes
            if predict_memory(scenario).device_bytes <= capacity:
                step_time_s = predict(scenario).step_time_s
                assert step_time_s is not None
                return Found(choice, step_time_s, tried)
        except (SpecError, DeadlockError, MemoryError):
            continue
    return Found(tried=len(trial.choices))


def _with(
    source: Source, overrides: Sequence[str], choice: dict[str, Any]
) -> tuple[Scenario, tuple[str, ...], tuple[str, ...]]:
    own = (*overrides, *(override(path, value) for path, value in choice.items()))
    loaded = load_scenario(source, own)
    return loaded.scenario, loaded.notes, own


def _best(variant: Variant, found: Sequence[Found], names: Sequence[str]) -> Variant:
    """Return a variant at the fastest of what was found."""
    fitting = [one for one in found if one.choice is not None]
    tried = sum(one.tried for one in found)
    old = {
        PATHS["micro_batch"]: variant.scenario.workload.micro_batch,
        PATHS["recompute"]: variant.scenario.policies.recompute,
    }
    kept = {PATHS[name]: old[PATHS[name]] for name in names}
    if not fitting:
        remark = f"not retuned: none of {tried} choices fits in memory; {_words(kept)} stays"
        return replace(variant, setting=variant.setting | kept, remark=remark)
    best = min(fitting, key=lambda one: one.step_time_s)
    assert best.choice is not None
    scenario, notes, own = _with(variant.source, variant.overrides, best.choice)
    chosen = kept | best.choice
    remark = f"retuned to {_words(chosen)} ({tried} tried; was {_words(kept)})"
    return replace(
        variant,
        overrides=own,
        setting=variant.setting | chosen,
        scenario=scenario,
        notes=notes,
        remark=remark,
    )


def _words(choice: dict[str, Any]) -> str:
    return ", ".join(f"{path.rsplit('.', 1)[-1]}={value}" for path, value in choice.items())
