"""The command line: a thin layer on the Python interface."""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from desim.errors import DeadlockError, SpecError

if TYPE_CHECKING:
    from collections.abc import Sequence

OK, OURS, YOURS, INTERRUPTED = 0, 1, 2, 130

_USAGE = """\
python -m desim SCENARIO [options]         play a scenario and write its results
       python -m desim check SCENARIO [options]   validate it; mesh, parameters, memory estimate
       python -m desim list [KIND]                what the catalogue offers"""
LISTS = ("workloads", "devices", "fabrics", "systems", "schedules", "policies")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0: done; 1: a fault of desim's; 2: a mistake of the user's; 130: interrupted.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    commands = {"check": _check, "list": _list}
    try:
        if given and given[0] in commands:
            return commands[given[0]](given[1:])
        return _run(given)
    except SpecError as error:
        _complain(error)
        return YOURS
    except KeyboardInterrupt:
        print("\ndesim: interrupted; no file was left half-written", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return OK
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        print(f"desim: {error.strerror or error}{where}", file=sys.stderr)
        return OURS
    except DeadlockError as error:
        print(f"desim: {error}", file=sys.stderr)
        return OURS
    except Exception:
        traceback.print_exc()
        print("desim: this is a fault of desim's; please report it", file=sys.stderr)
        return OURS


def _complain(error: SpecError) -> None:
    count = len(error.mistakes)
    for mistake in error.mistakes:
        print(f"error: {mistake}", file=sys.stderr)
    plural = "mistake" if count == 1 else "mistakes"
    print(f"desim: {count} {plural}; nothing was run or written", file=sys.stderr)


def run_parser() -> argparse.ArgumentParser:
    """Options of a run."""
    parser = argparse.ArgumentParser(
        prog="python -m desim",
        usage=_USAGE,
        description="A discrete-event simulator of the clusters that train large models.",
        allow_abbrev=False,
    )
    _scenario_options(parser)
    parser.add_argument("--out", metavar="DIR", help="results folder (traces_out/NAME)")
    parser.add_argument(
        "--no-trace", action="store_true", help="write no timeline (trace.json.gz, record.parquet)"
    )
    parser.add_argument("--no-report", action="store_true", help="write no report.html")
    parser.add_argument("--quiet", action="store_true", help="print warnings and errors only")
    parser.add_argument(
        "--strict-memory", action="store_true", help="exit with 2 where memory does not suffice"
    )
    return parser


def check_parser() -> argparse.ArgumentParser:
    """Options of `check`."""
    parser = argparse.ArgumentParser(
        prog="python -m desim check",
        description="Validate a scenario and estimate its memory; nothing is played or written.",
        allow_abbrev=False,
    )
    _scenario_options(parser)
    return parser


def list_parser() -> argparse.ArgumentParser:
    """Options of `list`."""
    parser = argparse.ArgumentParser(
        prog="python -m desim list",
        description="List what scenarios can name.",
        allow_abbrev=False,
    )
    parser.add_argument("kind", nargs="?", choices=LISTS, help="one kind only")
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


def _run(given: Sequence[str]) -> int:
    options = run_parser().parse_args(given)
    from desim.report.progress import Progress
    from desim.spec.load import load_scenario

    loaded = load_scenario(options.scenario, options.set)
    scenario = loaded.scenario
    folder = Path(options.out) if options.out else _default_folder(scenario.name)
    _require_writable(folder)
    from desim.api import run

    show = sys.stderr.isatty() and not options.quiet
    with Progress(scenario.name, show=show) as progress:
        result = run(scenario, watch=progress.watch)
        progress.say("writing results")
        trace = scenario.output.trace != "none" and not options.no_trace
        report = scenario.output.report and not options.no_report
        written = result.write(folder, trace=trace, report=report)
    notes = (*loaded.notes, *result.notes)
    warnings = result.summary.get("warnings", [])
    for text in warnings:
        print(f"WARNING: {text}", file=sys.stderr)
    if options.json:
        print(json.dumps(result.summary, indent=2))
    elif not options.quiet:
        print(_terminal_text(result, notes, written))
    return YOURS if options.strict_memory and not result.summary["fits"] else OK


def _terminal_text(result: object, notes: Sequence[str], written: Sequence[Path]) -> str:
    from desim.api import Result
    from desim.report.summary import render

    assert isinstance(result, Result)
    lines = [f"note: {note}" for note in notes]
    lines.append(f"written to {written[0].parent}: {', '.join(path.name for path in written)}")
    return render(result.summary, result.record, lines).rstrip()


def _default_folder(name: str) -> Path:
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name).strip(".") or "run"
    return Path("traces_out") / safe


def _require_writable(folder: Path) -> None:
    """Refuse a results folder that cannot be written before any time is spent."""
    import os

    from desim.errors import Mistake

    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise SpecError([Mistake("--out", "must be a folder", str(folder), f"{place} is a file")])
    if not os.access(place, os.W_OK | os.X_OK):
        rule = "the results folder cannot be written"
        raise SpecError([Mistake("--out", rule, str(folder), f"no permission in {place}")])


def _check(given: Sequence[str]) -> int:
    options = check_parser().parse_args(given)
    from desim.report.check import check_text, examine
    from desim.spec.load import load_scenario

    loaded = load_scenario(options.scenario, options.set)
    findings = examine(loaded.scenario)
    if options.json:
        print(json.dumps(findings | {"notes": list(loaded.notes)}, indent=2))
    else:
        print(check_text(findings, loaded.notes))
    return OK


def _list(given: Sequence[str]) -> int:
    options = list_parser().parse_args(given)
    from desim.report.listing import listing

    print(listing([options.kind] if options.kind else LISTS))
    return OK
