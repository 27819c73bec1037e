"""Fit the GEMM constants of hardware/devices from gemm.csv and op_efficiency.csv.

    python validation/fit/gemm.py

Prints, by architecture and format, the shared dependence on the sizes and each source's level,
and the errors on each third of the (n, k) families when a fit did not see that third.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ruamel.yaml import YAML

from desim.calibrate.gemm import GemmRows, fit_gemm
from desim.calibrate.published import burst_rows, held_back, training_rows
from desim.spec.hardware import Device

ROOT = Path(__file__).parents[2]
ARCHITECTURES = {
    "Ampere": ("a100", "A100"),
    "Hopper": ("h100", "h200"),
    "Blackwell": ("b200", "B200", "gb200"),
}


def load_device(name: str) -> Device:
    """Return a device of the catalogue."""
    text = (ROOT / "hardware" / "devices" / f"{name}.yaml").read_text()
    return Device.model_validate(YAML(typ="safe").load(text))


def load_sets() -> dict[tuple[str, str], list[GemmRows]]:
    """Return the sources by (architecture, format)."""
    bursts = burst_rows(ROOT / "validation" / "gemm.csv", load_device)
    trained = training_rows(ROOT / "validation" / "op_efficiency.csv", load_device)
    sets: dict[tuple[str, str], list[GemmRows]] = {}
    for (gpu, dtype), rows in [*bursts.items(), *(((hw, "bf16"), r) for hw, r in trained.items())]:
        architecture = next(a for a, starts in ARCHITECTURES.items() if gpu.startswith(starts))
        shared = "bf16" if dtype == "fp16" else dtype  # the same units at the same rate
        sets.setdefault((architecture, shared), []).append(rows)
    return sets


def held_back_errors(sets: list[GemmRows], part: int) -> dict[str, np.ndarray]:
    """Return by source the errors on `part` of its families under a fit without them."""
    masks = [held_back(rows, part) for rows in sets]
    fit = fit_gemm([rows.choose(~mask) for rows, mask in zip(sets, masks, strict=True)])
    unseen = [rows.choose(mask) for rows, mask in zip(sets, masks, strict=True)]
    return {rows.name: np.abs(fit.predict(rows) / rows.seconds - 1) for rows in unseen}


def main() -> None:
    """Fit every architecture and format, then print constants and errors."""
    for (architecture, dtype), sets in load_sets().items():
        fit = fit_gemm(sets)
        constants = ", ".join(f"{k} {v:.3g}" for k, v in fit.shape.model_dump().items())
        print(
            f"{architecture} {dtype}: {constants}, boost {fit.boost:.3g}, "
            f"cast {fit.cast_bytes:.3g} B"
        )
        parts = [held_back_errors(sets, part) for part in range(3)]
        for rows in sets:
            level = fit.levels[rows.name]
            errors = np.concatenate([part[rows.name] for part in parts])
            worst = max(float(np.median(part[rows.name])) for part in parts)
            print(
                f"  {rows.name:24} {len(errors):4} rows, efficiency {level.efficiency:.3f}, "
                f"accumulate {level.accumulate:.3f}; held back: median {np.median(errors):.3f} "
                f"(worst third {worst:.3f}), p90 {np.quantile(errors, 0.9):.3f}, "
                f"worst {errors.max():.3f}"
            )


if __name__ == "__main__":
    main()
