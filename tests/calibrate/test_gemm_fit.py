"""The fit of GEMM constants: it finds what made the rows, and holds on families it has not seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

from desim.calibrate.gemm import GemmFit, GemmRows, Level, fit_gemm
from desim.calibrate.published import burst_rows, held_back, training_rows
from desim.calibrate.search import minimise
from desim.kernels.gemm import GemmUnit
from desim.spec.hardware import Device, GemmShape

ROOT = Path(__file__).parents[2]


def load_device(name: str) -> Device:
    text = (ROOT / "hardware" / "devices" / f"{name}.yaml").read_text()
    return Device.model_validate(YAML(typ="safe").load(text))


def test_minimum_of_a_bowl_and_at_a_wall() -> None:
    target = np.array([0.3, 2.0])
    lower, upper = np.zeros(2), np.ones(2)
    point, _ = minimise(
        lambda x: float(np.sum((x - target) ** 2)), np.array([0.9, 0.1]), lower, upper
    )
    assert point == pytest.approx([0.3, 1.0], abs=1e-2)


def test_fit_finds_the_constants_that_made_the_rows() -> None:
    """Rows made by the model itself, a burst and a training source, give their constants back."""
    generator = np.random.default_rng(0)
    sizes = np.vstack([generator.integers(2, 64, (3, 80)) * 128.0, np.ones(80)])
    crossing = 2.0 * (sizes[0] * sizes[2] + sizes[2] * sizes[1] + sizes[0] * sizes[1])
    unit = GemmUnit(100, 400e12, 1.6e12, (128, 256), GemmShape())
    adds = np.arange(80) % 3 == 0
    none = np.zeros(80, dtype=bool)
    blank = [
        GemmRows("burst", unit, sizes, crossing, sizes[0], none, burst=True),
        GemmRows("training", unit, sizes, crossing, sizes[0], adds),
    ]
    levels = {"burst": Level(0.8, 1.0), "training": Level(0.6, 0.9)}
    truth = GemmFit(
        GemmShape(prologue_k=300.0, wave_loss=0.5, half_rate_intensity=20.0), 0.2, 0.0, levels
    )
    sets = [
        GemmRows(
            rows.name, unit, sizes, crossing, truth.predict(rows), rows.accumulates,
            burst=rows.burst,
        )
        for rows in blank
    ]  # fmt: skip
    found = fit_gemm(sets)
    assert found.levels["training"].efficiency == pytest.approx(0.6, rel=0.03)
    assert found.levels["training"].accumulate == pytest.approx(0.9, rel=0.01)
    assert found.levels["burst"].efficiency == pytest.approx(0.8, rel=0.05)
    for rows in sets:
        assert np.median(np.abs(found.predict(rows) / rows.seconds - 1)) < 0.01


def test_hopper_families_that_were_held_back() -> None:
    """A third of the (n, k) families of H100 and H200: the issue asks for 6 % and 20 %."""
    bursts = burst_rows(ROOT / "validation" / "gemm.csv", load_device)
    sets = [bursts["h100_sxm", "bf16"], bursts["h200_sxm", "bf16"]]
    masks = [held_back(rows, 0) for rows in sets]
    fit = fit_gemm([rows.choose(~mask) for rows, mask in zip(sets, masks, strict=True)])
    for rows, mask in zip(sets, masks, strict=True):
        unseen = rows.choose(mask)
        errors = np.abs(fit.predict(unseen) / unseen.seconds - 1)
        assert len(errors) > 20
        assert np.median(errors) < 0.04
        assert np.quantile(errors, 0.9) < 0.1


@pytest.mark.parametrize("name", ["A100-80GB-PCIe", "B200-SXM"])
def test_device_files_hold_the_level_of_training(name: str) -> None:
    """The device file's own constants have no bias on the layouts of training."""
    device = load_device({"A100-80GB-PCIe": "a100_pcie_80gb"}.get(name, "b200_sxm_180gb"))
    rows = training_rows(ROOT / "validation" / "op_efficiency.csv", load_device)[name]
    kernels = device.kernels
    level = Level(kernels.gemm_efficiency["bf16"], kernels.gemm_accumulate)
    fit = GemmFit(kernels.gemm_shape["bf16"], 0.0, 0.0, {rows.name: level})
    errors = fit.predict(rows) / rows.seconds - 1
    assert abs(np.median(errors)) < 0.01
    assert np.median(np.abs(errors)) < 0.05
