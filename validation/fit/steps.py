"""Fit what only whole training steps show: constants of devices, from tier A of step_time.csv.

    python validation/fit/steps.py [--every N] [--jobs N]

Kernels and collectives alone are fitted on their own files (gemm.py, attention.py, `desim calibrate
collectives`). What is left are the clock that a power cap leaves over minutes of training, how far
devices differ, and what a collective keeps beside kernels. Each is one number per architecture (or
one for all), found from the sensitivities of the logarithms of the step times: Huber's loss, every
family with the same weight, and a pull of one standard deviation of 10 % to the value in the files.
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
PULL = 0.1
#: Rows whose simulation is long are left out of the fit.
PASSES = 1000
LOW = ("fp8", "fp4")

Change = Callable[[System, float], System]


def _kernels(system: System, **update: object) -> System:
    kernels = system.device.kernels.model_copy(update=update)
    return system.model_copy(
        update={"device": system.device.model_copy(update={"kernels": kernels})}
    )


def gemm(names: tuple[str, ...], low: bool) -> Change:
    """Return the change of the GEMM level of devices whose name begins so, in 16 or fewer bits."""

    def change(system: System, factor: float) -> System:
        if not system.device.name.startswith(names):
            return system
        shares = system.device.kernels.gemm_efficiency
        return _kernels(
            system,
            gemm_efficiency={
                dtype: share * factor if (dtype in LOW) == low else share
                for dtype, share in shares.items()
            },
        )

    return change


def attention(names: tuple[str, ...]) -> Change:
    """Return the change of the fused attention level of devices whose name begins so."""

    def change(system: System, factor: float) -> System:
        if not system.device.name.startswith(names):
            return system
        backends = {
            name: share.model_copy(
                update={"forward": share.forward * factor, "backward": share.backward * factor}
            )
            for name, share in system.device.kernels.attention.items()
        }
        return _kernels(system, attention=backends)

    return change


def spread(system: System, factor: float) -> System:
    """Add `factor` - 1 to the spread of clocks."""
    return _kernels(system, clock_spread=system.device.kernels.clock_spread + factor - 1)


def beside(system: System, factor: float) -> System:
    """Change the bandwidth that a collective keeps beside kernels."""
    communication = system.device.communication
    share = min(1.0, communication.beside_compute / factor)
    communication = communication.model_copy(update={"beside_compute": share})
    return system.model_copy(
        update={"device": system.device.model_copy(update={"communication": communication})}
    )


def network(system: System, factor: float) -> System:
    """Change the share of a network card's bandwidth that collectives reach."""
    fabric = system.fabric.model_copy(update={"efficiency": system.fabric.efficiency / factor})
    return system.model_copy(update={"fabric": fabric})


CONSTANTS: dict[str, Change] = {
    "A100 GEMM, 16 bit": gemm(("A100",), low=False),
    "H100 GEMM, 16 bit": gemm(("H100", "H200", "H800"), low=False),
    "H100 GEMM, fp8": gemm(("H100", "H200", "H800"), low=True),
    "B200 GEMM, 16 bit": gemm(("B200", "GB200", "B300", "GB300"), low=False),
    "B200 GEMM, fp8 and fp4": gemm(("B200", "GB200", "B300", "GB300"), low=True),
    "A100 attention": attention(("A100",)),
    "H100 attention": attention(("H100", "H200", "H800")),
    "spread of clocks (1 + x)": spread,
    "1 / beside compute": beside,
    "1 / network efficiency": network,
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
    share = np.array([1 / size[family] for family in rows.families])
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
        found = np.array(list(pool.map(_sensitivities, [(s, m) for _, s, m in work], chunksize=4)))
    rows = Rows(found[:, 0], found[:, 1:], np.array([family for family, _, _ in work]))
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
