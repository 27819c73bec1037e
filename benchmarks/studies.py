"""Time of sweeps and comparisons of llama70b_2048: writes benchmarks/studies.md.

    python benchmarks/studies.py

A sweep's points per second are those of a long study over a short one (the difference of their
points over the difference of their times), so that starting processes and writing tables is not
counted. Comparisons are whole processes, from the shell to the page.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from speed import ROOT, machine

RESULTS = Path(__file__).with_name("studies.md")
SCENARIO = ROOT / "scenarios" / "llama70b_2048.yaml"
SHORT, LONG = 8, 108
VARIANTS = 8


def timed(*arguments: str) -> float:
    """Wall time of a command of desim in seconds."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "desim", *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - started


def sweep_s(folder: Path, points: int) -> float:
    """Wall time of a sweep of bucket sizes."""
    study = folder / f"points_{points}.yaml"
    sizes = ", ".join(f"{100 + i} MB" for i in range(points))
    text = f"study: points_{points}\nbase: {SCENARIO}\naxes: {{policies.bucket: [{sizes}]}}\n"
    study.write_text(text)
    return timed("sweep", str(study), "--out", str(folder / f"out_{points}"), "--quiet")


def compare_s(folder: Path) -> float:
    """Wall time of a comparison of bucket sizes with its page and trace."""
    sizes = ",".join(f"{100 + 20 * i} MB" for i in range(VARIANTS))
    vary = f"policies.bucket={sizes}"
    return timed("compare", str(SCENARIO), "--vary", vary, "--out", str(folder / "compared"))


def main() -> None:
    described = machine()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        short_s, long_s, compared_s = (
            sweep_s(folder, SHORT),
            sweep_s(folder, LONG),
            compare_s(folder),
        )
    rate = (LONG - SHORT) / (long_s - short_s)
    lines = [
        "# Speed of studies",
        "",
        "Written by `python benchmarks/studies.py`, whose first lines say what is measured.",
        "The base is `scenarios/llama70b_2048.yaml`.",
        "",
        described,
        "| what | measured | asked for |",
        "|---|---|---|",
        f"| sweep without timelines, points a second, once warm | {rate:.1f} | 10 |",
        f"| sweep of {SHORT} points, whole process | {short_s:.1f} s | |",
        f"| sweep of {LONG} points, whole process | {long_s:.1f} s | |",
        f"| compare of {VARIANTS} variants with page and trace | {compared_s:.1f} s | 15 s |",
    ]
    RESULTS.write_text("\n".join(lines) + "\n")
    print("\n".join(lines[-5:]))


if __name__ == "__main__":
    main()
