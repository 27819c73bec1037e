"""Fit what only whole training steps show: constants of devices, from tier A of step_time.csv.

    python validation/fit/steps.py [--every N] [--jobs N] [--out FILE.jsonl]

Kernels and collectives alone are fitted on their own files (gemm.py, attention.py, `desim calibrate
collectives`). What is left is what kernels lose in a step against the same kernels alone, what the
power cap leaves of Hopper's fp8 bursts, and what a collective keeps beside kernels: four numbers,
found from the sensitivities of the logarithms of the step times: Huber's loss, a family weighs as
the root of its rows, and a pull with a standard deviation of 20 % to the values in the files.
Prints the factors, and those found without each family with the errors they leave on it, in the
form of `left_out` of validation/readings.yaml. Both are read off the sensitivities, to first order.
Rows that are done are kept in FILE.jsonl; a run that was stopped goes on from there.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from desim.spec.hardware import System
from desim.spec.scenario import Scenario
from desim.validate.assumptions import UnscoredError, load_assumptions
from desim.validate.play import Job, play
from desim.validate.rows import to_scenario

TABLES = Path(__file__).parents[1]
#: A constant is moved by this factor to see what it does.
STEP = 1.05
#: Errors beyond this count linearly: they are more likely a row's than a constant's.
HUBER = 0.05
#: Standard deviation of the pull to the constants as they are.
PULL = 0.2

Change = Callable[[System, float], System]


def _kernels(system: System, **update: object) -> System:
    kernels = system.device.kernels.model_copy(update=update)
    return system.model_copy(
        update={"device": system.device.model_copy(update={"kernels": kernels})}
    )


def in_step(system: System, factor: float) -> System:
    """Change the speed that the math units keep in a step."""
    return _kernels(system, in_step=system.device.kernels.in_step / factor)


def memory_in_step(system: System, factor: float) -> System:
    """Change the speed that streams of memory keep in a step."""
    return _kernels(system, memory_in_step=system.device.kernels.memory_in_step / factor)


def hopper_fp8(system: System, factor: float) -> System:
    """Change the fp8 level of Hopper parts."""
    if not system.device.name.startswith(("H100", "H200", "H800")):
        return system
    shares = dict(system.device.kernels.gemm_efficiency)
    return _kernels(system, gemm_efficiency={**shares, "fp8": shares["fp8"] / factor})


def beside(system: System, factor: float) -> System:
    """Change the bandwidth that a collective keeps beside kernels."""
    communication = system.device.communication
    share = min(1.0, communication.beside_compute / factor)
    communication = communication.model_copy(update={"beside_compute": share})
    return system.model_copy(
        update={"device": system.device.model_copy(update={"communication": communication})}
    )


CONSTANTS: dict[str, Change] = {
    "1 / in_step, all devices": in_step,
    "1 / memory_in_step, all devices": memory_in_step,
    "1 / fp8 level, Hopper": hopper_fp8,
    "1 / beside_compute, all devices": beside,
}


@dataclass(frozen=True)
class Rows:
    """Signed log errors, their change per log of each constant, and the family of each row."""

    errors: NDArray[np.float64]
    slopes: NDArray[np.float64]
    families: NDArray[np.str_]

    def choose(self, mask: NDArray[np.bool_]) -> Rows:
        """Return some of the rows."""
        return Rows(self.errors[mask], self.slopes[mask], self.families[mask])


def _changed(scenario: Scenario, change: Change) -> Scenario:
    system = change(scenario.cluster.system, STEP)
    return scenario.model_copy(
        update={"cluster": scenario.cluster.model_copy(update={"system": system})}
    )


@dataclass(frozen=True)
class Work:
    """A row to be played."""

    name: str
    family: str
    scenario: Scenario
    measured_s: float


@dataclass(frozen=True)
class Played:
    """Error and sensitivities of a row; None where it could not be played."""

    name: str
    family: str
    slopes: list[float] | None


def _sensitivities(work: Work) -> Played:
    try:
        found = _slopes(work.scenario, work.measured_s)
    except AssertionError:
        found = [float("nan")]
    return Played(work.name, work.family, found if np.all(np.isfinite(found)) else None)


def _step_time_s(scenario: Scenario) -> float:
    outcome = play(Job(scenario, only_memory=False))
    assert outcome.prediction is not None
    assert outcome.prediction.step_time_s is not None
    return outcome.prediction.step_time_s


def _slopes(scenario: Scenario, measured_s: float) -> list[float]:
    simulated_s = _step_time_s(scenario)
    slopes = []
    for change in CONSTANTS.values():
        other = _changed(scenario, change)
        moved_s = simulated_s if other == scenario else _step_time_s(other)
        slopes.append(float(np.log(moved_s / simulated_s) / np.log(STEP)))
    return [float(np.log(simulated_s / measured_s)), *slopes]


def _at_pace(scenario: Scenario) -> Scenario:
    """The scenario with time folded to some parts in 10,000: sensitivities need no more."""
    run = scenario.run.model_copy(update={"fold_time": "pace"})
    return scenario.model_copy(update={"run": run})


def _work(every: int, done: frozenset[str]) -> Iterator[Work]:
    assumptions = load_assumptions(TABLES / "assumptions.yaml")
    with open(TABLES / "step_time.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["tier"] == "A"]
    for row in rows[::every]:
        if row["id"] in done:
            continue
        with contextlib.suppress(UnscoredError):
            scenario = _at_pace(to_scenario(row, assumptions))
            yield Work(row["id"], row["family"], scenario, float(row["measured_step_time_s"]))


def _play(every: int, jobs: int | None, out: Path | None) -> list[Played]:
    """Play the rows that `out` does not hold yet; return those too."""
    known = out.read_text(encoding="utf-8").splitlines() if out and out.exists() else []
    played = [Played(**json.loads(line)) for line in known]
    work = list(_work(every, frozenset(p.name for p in played)))
    with (
        ProcessPoolExecutor(jobs) as pool,
        open(out or os.devnull, "a", encoding="utf-8") as file,
    ):
        for done in as_completed([pool.submit(_sensitivities, one) for one in work]):
            played.append(done.result())
            file.write(json.dumps(vars(played[-1])) + "\n")
            file.flush()
    return played


def fit(rows: Rows) -> NDArray[np.float64]:
    """Return the logs of the factors that fit best, by reweighted least squares."""
    names, counts = np.unique(rows.families, return_counts=True)
    size = dict(zip(names, counts, strict=True))
    share = np.array([size[family] ** -0.5 for family in rows.families])
    share *= len(share) / share.sum()
    logs = np.zeros(rows.slopes.shape[1])
    for _ in range(50):
        left = rows.errors + rows.slopes @ logs
        weight = share * np.minimum(1.0, HUBER / np.maximum(np.abs(left), 1e-9)) / HUBER**2
        weighted = rows.slopes * weight[:, None]
        pull = np.eye(len(logs)) / PULL**2
        logs = np.linalg.solve(rows.slopes.T @ weighted + pull, -weighted.T @ rows.errors)
    return logs


def _errors(rows: Rows, logs: NDArray[np.float64]) -> dict[str, float]:
    """Median and mean of the errors' sizes, their 90th percentile, and their mean with sign."""
    error = np.exp(rows.errors + rows.slopes @ logs) - 1
    size = np.abs(error)
    return {
        "median": float(np.median(size)),
        "mape": float(size.mean()),
        "p90": float(np.quantile(size, 0.9)),
        "bias": float(error.mean()),
    }


def _shown(errors: dict[str, float]) -> str:
    return ", ".join(f"{name}: {value:.3f}" for name, value in errors.items())


def main() -> None:
    """Fit, with and without each family, and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, default=1, help="take every nth row")
    parser.add_argument("--jobs", type=int, default=None, help="processes")
    parser.add_argument("--out", type=Path, default=None, help="keep the rows that are done here")
    given = parser.parse_args()
    played = [p for p in _play(given.every, given.jobs, given.out) if p.slopes is not None]
    found = np.array([p.slopes for p in played])
    rows = Rows(found[:, 0], found[:, 1:], np.array([p.family for p in played]))
    logs = fit(rows)
    print(f"# {len(rows.errors)} rows")
    for name, log in zip(CONSTANTS, logs, strict=True):
        print(f"# {name:28} x {np.exp(log):.3f}")
    print(f"# now    {_shown(_errors(rows, 0 * logs))}")
    print(f"# fitted {_shown(_errors(rows, logs))}")
    print("left_out:")
    for family in np.unique(rows.families):
        own = rows.families == family
        without = fit(rows.choose(~own))
        fitted = _shown(_errors(rows.choose(own), logs))
        factors = " ".join(f"{f:.3f}" for f in np.exp(without))
        print(f"  # {own.sum()} rows; fitted with it: {fitted}; without it x {factors}")
        print(f"  {family}: {{{_shown(_errors(rows.choose(own), without))}}}")


if __name__ == "__main__":
    main()
