"""The command `diff`: its options, and the text that it prints."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from desim.diff.compare import as_json, compare
from desim.diff.text import render


def diff_parser() -> argparse.ArgumentParser:
    """Options of `diff`."""
    parser = argparse.ArgumentParser(
        prog="python -m desim diff",
        description="Show a trace of PyTorch's profiler (Kineto) of a real run beside the results "
        "of a simulated one: step, kernels and collectives, measured and simulated.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("trace", metavar="TRACE.json.gz", help="trace of one rank (.json or .json.gz); only read")
    add("result", metavar="RESULT_DIR", help="results folder of a run, with record.parquet")
    add("--rank", metavar="N", type=int, help="simulated rank (default: the trace's own)")
    add("--json", action="store_true", help="print JSON on stdout, nothing else")
    return parser


def diff(given: Sequence[str]) -> str:
    """Return what the command prints; raises SpecError for files that cannot be compared."""
    options = diff_parser().parse_args(given)
    found = compare(Path(options.trace), Path(options.result), options.rank)
    if options.json:
        return json.dumps(as_json(found), indent=2) + "\n"
    return render(found)
