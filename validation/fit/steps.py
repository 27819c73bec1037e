"""Fit what only whole training steps show: constants of devices, from tier A of step_time.csv.

    python validation/fit/steps.py [--every N] [--jobs N]

Kernels and collectives alone are fitted on their own files (gemm.py, attention.py, `desim calibrate
collectives`). What is left is what kernels lose in a step against the same kernels alone, what the
power cap leaves of Hopper's fp8 bursts, and what a collective keeps beside kernels: three numbers,
found from the sensitivities of the logarithms of the step times: Huber's loss, a family weighs as
the root of its rows, and a pull with a standard deviation of 20 % to the values in the files.
Prints the factors, and those found without each family with the error they leave on it.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import desim.api as api
from desim.errors import DesimError
from desim.spec.hardware import System
from desim.spec.scenario import Scenario
from desim.validate.assumptions import UnscoredError, load_assumptions
from desim.validate.rows import to_scenario

TABLES = Path(__file__).parents[1]
#: A constant is moved by this factor to see what it does.
STEP = 1.05
#: Errors beyond this count linearly: they are more likely a row's than a constant's.
HUBER = 0.05
#: Standard deviation of the pull to the constants as they are.
PULL = 0.2
#: Rows whose simulation is long are left out of the fit.
PASSES = 450

Change = Callable[[System, float], System]


def _kernels(system: System, **update: object) -> System:
    kernels = system.device.kernels.model_copy(update=update)
    return system.model_copy(
        update={"device": system.device.model_copy(update={"kernels": kernels})}
    )


def in_step(system: System, factor: float) -> System:
    """Change the speed that kernels keep in a step."""
    return _kernels(system, in_step=system.device.kernels.in_step / factor)


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


def _sensitivities(work: tuple[Scenario, float]) -> list[float] | None:
    """Return a row's error and slopes, or None where it cannot be played."""
    try:
        found = _slopes(*work)
        return found if np.all(np.isfinite(found)) else None
    except (AssertionError, DesimError):
        return None


def _slopes(scenario: Scenario, measured: float) -> list[float]:
    simulated = api.predict(scenario).step_time_s
    slopes = []
    for change in CONSTANTS.values():
        other = _changed(scenario, change)
        moved = simulated if other == scenario else api.predict(other).step_time_s
        slopes.append(float(np.log(moved / simulated) / np.log(STEP)))
    return [float(np.log(simulated / measured)), *slopes]


def _work(every: int) -> Iterator[tuple[str, Scenario, float]]:
    assumptions = load_assumptions(TABLES / "assumptions.yaml")
    with open(TABLES / "step_time.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["tier"] == "A"]
    for row in rows[::every]:
        try:
            scenario = to_scenario(row, assumptions)
        except UnscoredError:
            continue
        parallel, load = scenario.parallel, scenario.workload
        assert isinstance(parallel.data, int)
        passes = load.global_batch / load.micro_batch / parallel.data * parallel.pipeline
        if passes <= PASSES:
            yield row["family"], scenario, float(row["measured_step_time_s"])


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


def main() -> None:
    """Fit, with and without each family, and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, default=1, help="take every nth row")
    parser.add_argument("--jobs", type=int, default=None, help="processes")
    given = parser.parse_args()
    work = list(_work(given.every))
    with ProcessPoolExecutor(given.jobs) as pool:
        played = list(pool.map(_sensitivities, [(s, m) for _, s, m in work], chunksize=2))
    found = np.array([row for row in played if row is not None])
    families = [f for (f, _, _), row in zip(work, played, strict=True) if row is not None]
    rows = Rows(found[:, 0], found[:, 1:], np.array(families))
    logs = fit(rows)
    print(f"{len(rows.errors)} rows")
    for name, log in zip(CONSTANTS, logs, strict=True):
        print(f"{name:28} x {np.exp(log):.3f}")
    for family in np.unique(rows.families):
        own = rows.families == family
        without = fit(rows.choose(~own))
        kept = np.exp(rows.errors[own] + rows.slopes[own] @ logs) - 1
        unseen = np.exp(rows.errors[own] + rows.slopes[own] @ without) - 1
        print(
            f"{family:14} {own.sum():4d} rows  now {np.mean(np.exp(rows.errors[own]) - 1):+.3f}"
            f"  fitted {np.mean(kept):+.3f} mape {np.mean(np.abs(kept)):.3f}"
            f"  left out {np.mean(unseen):+.3f} mape {np.mean(np.abs(unseen)):.3f}"
        )


if __name__ == "__main__":
    main()
