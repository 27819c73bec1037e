"""Time and memory of whole runs, from the shell to the files: writes benchmarks/results.md.

    python benchmarks/speed.py [--runs 5] [--quick]

Every run is a process of its own; its wall time includes starting Python, its memory is the most
that the process held (maximum resident set). `--quick` leaves out the unfolded run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).with_name("results.md")
SCENARIO = "scenarios/llama70b_2048.yaml"
PACKAGES = ("desim", "simpy", "numpy", "pandas", "pyarrow", "plotly", "pydantic", "ruamel.yaml")
NO_FILES = ("--no-trace", "--no-report")


@dataclass(frozen=True)
class Case:
    """A run to measure and what is asked of it; `runs` 0: as many as the command line says."""

    name: str
    options: tuple[str, ...]
    runs: int = 0
    limit: str = ""


@dataclass(frozen=True)
class Measured:
    """What the runs of a case took."""

    case: Case
    wall_s: tuple[float, ...]
    cpu_s: tuple[float, ...]
    peak_mb: tuple[float, ...]
    summary: dict[str, Any]


def sized(devices: int, batch: int) -> tuple[str, ...]:
    return ("--set", f"cluster.devices={devices}", "--set", f"workload.global_batch={batch}")


CASES = (
    Case("2,048 devices, all files", (), limit="2.5 s, 400 MB"),
    Case("2,048 devices, no trace, no report", NO_FILES, limit="1.3 s"),
    Case("16,384 devices, all files", sized(16384, 8192), limit="1.3 x the first"),
    Case("131,072 devices, all files", sized(131072, 65536), limit="2.5 x the first"),
    Case(
        "2,048 devices, every rank played, no trace, no report",
        ("--set", "run.fold=false", *NO_FILES),
        runs=1,
        limit="200 s, 6 GiB",
    ),
)


def once(case: Case, folder: Path) -> tuple[float, float, float]:
    """Run a case and return its wall and processor time in seconds and peak memory in MB."""
    command = [sys.executable, "-m", "desim", SCENARIO, "--quiet", "--out", str(folder)]
    started = time.perf_counter()
    process = subprocess.Popen([*command, *case.options], cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - started
    if status:
        raise SystemExit(f"{case.name}: exit status {status}")
    return wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6


def measure(case: Case, runs: int) -> Measured:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        taken = [once(case, folder) for _ in range(case.runs or runs)]
        summary = json.loads((folder / "summary.json").read_text())
    wall_s, cpu_s, peak_mb = zip(*taken, strict=True)
    print(f"{case.name}: {statistics.median(wall_s):.2f} s, {max(peak_mb):,.0f} MB", flush=True)
    return Measured(case, wall_s, cpu_s, peak_mb, summary)


def table(found: list[Measured]) -> str:
    first = statistics.median(found[0].wall_s)
    lines = [
        "| run of scenario 1 | wall s, median (least to most) | to the first | processor s "
        "| peak MB | runs | rank classes | tasks | step time s | asked for |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for item in found:
        median = statistics.median(item.wall_s)
        spread = f"{min(item.wall_s):.2f} to {max(item.wall_s):.2f}"
        cells = (
            item.case.name,
            f"{median:.2f} ({spread})",
            f"{median / first:.2f}",
            f"{statistics.median(item.cpu_s):.2f}",
            f"{max(item.peak_mb):,.0f}",
            f"{len(item.wall_s)}",
            f"{item.summary['rank_classes']:,}",
            f"{item.summary['tasks']:,}",
            f"{item.summary['step_time_s']:.9f}",
            item.case.limit,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def machine() -> str:
    """Say what was measured on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0].split(":")[1].strip() if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"- {os.cpu_count()} cores ({model}), {memory:.0f} GiB, {platform.system()}\n"
        f"- Python {platform.python_version()}; {versions}\n"
        f"- load of the machine before the runs: {os.getloadavg()[0]:.1f}\n"
    )


def page(found: list[Measured], described: str) -> str:
    lines = [
        "# Speed and memory",
        "",
        "Written by `python benchmarks/speed.py`. Scenario 1 is `scenarios/llama70b_2048.yaml`;",
        "times are of whole processes, from the shell to the files, Python's start included. Wall",
        "times of a machine that does other work as well are longer than its processor times.",
        "",
        described,
        table(found),
    ]
    last = found[-1]
    if last.summary["rank_classes"] == last.summary["num_devices"]:
        folded = found[0].summary["step_time_s"]
        error = abs(last.summary["step_time_s"] / folded - 1)
        lines += ["", f"Folded and unfolded step times differ by {error:.1e} (relative)."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="runs of each case (median)")
    parser.add_argument("--quick", action="store_true", help="leave out the unfolded run")
    options = parser.parse_args()
    described = machine()
    cases = CASES[:-1] if options.quick else CASES
    with tempfile.TemporaryDirectory() as name:
        once(CASES[0], Path(name))  # warms the disk cache; not counted
    found = [measure(case, options.runs) for case in cases]
    RESULTS.write_text(page(found, described))
    print(table(found))


if __name__ == "__main__":
    main()
