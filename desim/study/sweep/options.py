"""Options of the command `sweep`."""

from __future__ import annotations

import argparse

_CODES = "exit codes: 0 done, 1 a fault of desim's, 2 a mistake in what was given, 130 interrupted"


def sweep_parser() -> argparse.ArgumentParser:
    """Options of `sweep`."""
    parser = argparse.ArgumentParser(
        prog="python -m desim sweep",
        description="Play every point of a study: a scenario with some of its values varied.",
        epilog=_CODES,
        allow_abbrev=False,
    )
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
