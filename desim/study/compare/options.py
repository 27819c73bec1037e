"""The options of `compare`."""

from __future__ import annotations

import argparse

_USAGE = """\
python -m desim compare SCENARIO --vary PATH=V1,V2,... [--vary ...] [options]
       python -m desim compare A.yaml B.yaml [C.yaml ...] [options]"""


def compare_parser(epilog: str = "") -> argparse.ArgumentParser:
    """Options of `compare`; `epilog` ends the help."""
    parser = argparse.ArgumentParser(
        prog="python -m desim compare",
        usage=_USAGE,
        description="Play variants of a scenario and say what differs between them, and why; "
        "the first is the reference.",
        epilog=epilog,
        allow_abbrev=False,
    )
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
