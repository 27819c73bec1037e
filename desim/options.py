"""The options of every command."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

LISTS = ("workloads", "devices", "fabrics", "systems", "schedules", "policies")
_USAGE = """\
python -m desim SCENARIO [options]         play a scenario and write its results
       python -m desim check SCENARIO [options]   validate it; mesh, parameters, memory estimate
       python -m desim list [KIND]                what scenarios can name
       python -m desim validate FILE.csv [...]    compare with measurements
       python -m desim calibrate [...]            measure this machine's GPU, fit its device
       python -m desim compare SCENARIO [...]     what differs between variants, and why
       python -m desim sweep STUDY.yaml [...]     play every point of a study
       python -m desim diff TRACE RESULT_DIR      a real run's trace beside a simulated one"""
_CODES = "exit codes: 0 done, 1 a fault of desim's, 2 a mistake in what was given, 130 interrupted"
_COMPARE_USAGE = """\
python -m desim compare SCENARIO --vary PATH=V1,V2,... [--vary ...] [options]
       python -m desim compare A.yaml B.yaml [C.yaml ...] [options]"""


def _parser(command: str, description: str, usage: str | None = None) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"python -m desim {command}".rstrip(),
        usage=usage,
        description=description,
        epilog=_CODES,
        allow_abbrev=False,
    )


def run_parser() -> argparse.ArgumentParser:
    """Options of a run."""
    what = "A discrete-event simulator of the clusters that train large models."
    parser = _parser("", what, _USAGE)
    _scenario_options(parser)
    parser.add_argument("--out", metavar="DIR", help="results folder (default: traces_out/NAME)")
    parser.add_argument(
        "--no-trace", action="store_true", help="write no timeline (trace.json.gz, record.parquet)"
    )
    parser.add_argument("--no-report", action="store_true", help="write no report.html")
    parser.add_argument("--quiet", action="store_true", help="print warnings and errors only")
    parser.add_argument(
        "--strict-memory", action="store_true", help="exit with 2 where memory does not suffice"
    )
    parser.add_argument("--version", action=_Version, help="print the version and exit")
    return parser


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"desim {version('desim')}")
        parser.exit(0)


def check_parser() -> argparse.ArgumentParser:
    """Options of `check`."""
    what = "Validate a scenario and estimate its memory; nothing is played or written."
    parser = _parser("check", what)
    _scenario_options(parser)
    return parser


def list_parser() -> argparse.ArgumentParser:
    """Options of `list`."""
    parser = _parser("list", "List what scenarios can name.")
    kinds = ", ".join(LISTS)
    parser.add_argument("kind", nargs="?", choices=LISTS, metavar="KIND", help=f"one of {kinds}")
    return parser


def validate_parser() -> argparse.ArgumentParser:
    """Options of `validate`."""
    what = "Turn rows of measurements into scenarios, play them and print the errors."
    parser = _parser("validate", what)
    add = parser.add_argument
    add("file", metavar="FILE.csv", help="rows of measurements, columns as in docs/validate.md")
    add("--tier", choices=("A", "B"), help="rows of one tier only")
    add("--only", metavar="GLOB", help="rows whose id matches, such as 'titan-8b-*'")
    add("--assumptions", metavar="FILE", help="what to assume where rows are silent (default: "
        "assumptions.yaml beside FILE.csv, else desim's own)")  # fmt: skip
    add("--jobs", metavar="N", type=int, help="processes (default: all cores)")
    add("--json", metavar="OUT", help="write the errors as JSON")
    add("--table", metavar="OUT.csv", help="write a line for every row")
    add("--write-scenarios", metavar="DIR", help="write a runnable scenario for every row")
    add("--report", metavar="OUT.md", help="write the page of accuracy")
    add("--effects", metavar="OUT.md", help="compare the effects of policies instead, by the pairs "
        "of rows that effects.yaml beside FILE.csv declares, and write their page")  # fmt: skip
    add("--quiet", action="store_true", help="print nothing but mistakes")
    return parser


def calibrate_parser() -> argparse.ArgumentParser:
    """Options of `calibrate`."""
    what = "Measure the kernels of this machine's GPU with PyTorch and fit its device."
    usage = (
        "python -m desim calibrate [options]\n"
        "       python -m desim calibrate collectives FILE.csv --gpu GPU --system SYSTEM"
    )
    parser = _parser("calibrate", what, usage)
    add = parser.add_argument
    add("--out", metavar="FILE.csv", help="table to write or continue "
        "(default: hardware/measured/DEVICE.csv)")  # fmt: skip
    add("--yaml", metavar="OUT.yaml", help="device file to write (default: beside the table)")
    add("--device", metavar="NAME", help="device to start from (default: recognised)")
    add("--only", metavar="PARTS", help="of gemm,attention,memory,copies,collectives")
    add("--formats", metavar="FORMATS", help="of bf16,fp16,fp8")
    add("--scenario", metavar="SCENARIO", help="measure the kernels of this scenario first")
    add("--fit-only", action="store_true", help="measure nothing, fit the table as it is")
    add("--quiet", action="store_true", help="print nothing but mistakes")
    return parser


def collectives_parser() -> argparse.ArgumentParser:
    """Options of `calibrate collectives`."""
    what = "Fit the collectives of a node; prints the fields of its system."
    parser = _parser("calibrate collectives", what)
    add = parser.add_argument
    add("file", metavar="FILE.csv", help="rows with the columns of validation/collectives.csv")
    add("--gpu", required=True, help="rows to take, by their column gpu")
    add("--system", required=True, help="how the devices of the node are joined")
    return parser


def compare_parser() -> argparse.ArgumentParser:
    """Options of `compare`."""
    what = (
        "Play variants of a scenario and say what differs between them, and why; "
        "the first is the reference."
    )
    parser = _parser("compare", what, _COMPARE_USAGE)
    add = parser.add_argument
    add("scenarios", metavar="SCENARIO", nargs="+", help="scenario files (YAML)")
    add("--vary", metavar="PATH=V1,V2,...", action="append", default=[],
        help="values of a path of one scenario; several --vary: every combination")  # fmt: skip
    add("--paired", action="store_true", help="take the values of several --vary one by one")
    add("--retune", metavar="NAMES", help="each variant at its own best of micro_batch,recompute")
    add("--set", metavar="PATH=VALUE", action="append", default=[],
        help="override any value in all variants; may be repeated")  # fmt: skip
    add("--out", metavar="DIR", help="results folder (default: traces_out/compare_NAME)")
    add("--json", action="store_true", help="print JSON on stdout, nothing else")
    return parser


def sweep_parser() -> argparse.ArgumentParser:
    """Options of `sweep`."""
    what = "Play every point of a study: a scenario with some of its values varied."
    parser = _parser("sweep", what)
    add = parser.add_argument
    add("study", metavar="STUDY.yaml", help="study file, as in docs/sweep.md")
    add("--out", metavar="DIR", help="results folder (default: traces_out/NAME)")
    places = parser.add_mutually_exclusive_group()
    places.add_argument("--jobs", metavar="N", type=int, help="processes (default: all cores)")
    places.add_argument("--cluster", metavar="ADDRESS", help="Dask scheduler, as tcp://host:8786")
    add("--resume", action="store_true", help="go on from the finished points in the folder")
    add("--yes", action="store_true", help="play more than 10,000 points")
    add("--quiet", action="store_true", help="print nothing but mistakes")
    return parser


def diff_parser() -> argparse.ArgumentParser:
    """Options of `diff`."""
    what = (
        "Show a trace of PyTorch's profiler (Kineto) of a real run beside the results "
        "of a simulated one: step, kernels and collectives, measured and simulated."
    )
    parser = _parser("diff", what)
    add = parser.add_argument
    add("trace", metavar="TRACE.json.gz", help="trace of one rank (.json or .json.gz); only read")
    add("result", metavar="RESULT_DIR", help="results folder of a run, with record.parquet")
    add("--rank", metavar="N", type=int, help="simulated rank (default: the trace's own)")
    add("--json", action="store_true", help="print JSON on stdout, nothing else")
    return parser


def _scenario_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scenario", metavar="SCENARIO", help="scenario file (YAML)")
    parser.add_argument(
        "--set",
        metavar="PATH=VALUE",
        action="append",
        default=[],
        help="override any value of the scenario; VALUE is YAML; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="print JSON on stdout, nothing else")
