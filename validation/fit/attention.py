"""Fit the attention constants of hardware/devices from op_efficiency.csv.

    python validation/fit/attention.py

Prints, by device and pass, the constants and the error on each shape.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ruamel.yaml import YAML

from desim.calibrate.attention import attention_rows, fit_attention, with_constants
from desim.kernels.attention import attention_time
from desim.spec.hardware import AttentionBackend, Device

ROOT = Path(__file__).parents[2]
SOURCES: tuple[tuple[str, str, AttentionBackend, float], ...] = (
    # The SXM part's share on long sequences (Dao 2023, figure 5): 300 W cannot beat 400 W.
    ("A100-80GB-PCIe", "a100_pcie_80gb", "flash2", 0.64),
    ("B200-SXM", "b200_sxm_180gb", "cudnn", 1.0),
)


def main() -> None:
    """Fit every device and pass, then print constants and errors."""
    for name, file, backend, most in SOURCES:
        text = (ROOT / "hardware" / "devices" / f"{file}.yaml").read_text()
        device = Device.model_validate(YAML(typ="safe").load(text))
        for variant in ("forward", "backward"):
            rows = attention_rows(ROOT / "validation" / "op_efficiency.csv", name, variant)
            found = fit_attention(device, backend, variant, rows, most)
            fitted = with_constants(device, backend, variant, *found)
            errors = {
                row.op.shape: attention_time(row.op, fitted, backend).alone_s / row.seconds - 1
                for row in rows
            }
            size = np.abs(list(errors.values()))
            print(
                f"{name} {backend} {variant}: share {found[0]:.3f}, tail {found[1]:.2f}, longest "
                f"{found[2]:.2f}; {len(rows)} rows, median {np.median(size):.3f}, worst "
                f"{size.max():.3f}"
            )
            for shape, error in errors.items():
                print(f"    {shape}: {error:+.2f}")


if __name__ == "__main__":
    main()
