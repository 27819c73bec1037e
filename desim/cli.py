"""The command line: a thin layer on the Python interface."""

from __future__ import annotations

import json
import sys
import textwrap
import traceback
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from desim.errors import DeadlockError, SpecError
from desim.options import (
    LISTS,
    calibrate_parser,
    check_parser,
    collectives_parser,
    compare_parser,
    diff_parser,
    list_parser,
    run_parser,
    sweep_parser,
    validate_parser,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from desim.api import Result
    from desim.spec.load import Loaded

OK, OURS, YOURS, INTERRUPTED = 0, 1, 2, 130

_WIDTH = 100


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0: done; 1: a fault of desim's; 2: a mistake of the user's; 130: interrupted.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    commands = {
        "check": _check,
        "list": _list,
        "validate": _validate,
        "calibrate": _calibrate,
        "compare": _compare,
        "sweep": _sweep,
        "diff": _diff,
    }
    try:
        if given and given[0] in commands:
            return commands[given[0]](given[1:])
        _require_one_scenario(given, list(commands))
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
    except DeadlockError as error:
        print(f"desim: {error}", file=sys.stderr)
        return OURS
    except Exception:
        traceback.print_exc()
        print("desim: this is a fault of desim's; please report it", file=sys.stderr)
        return OURS


def _require_one_scenario(given: Sequence[str], commands: list[str]) -> None:
    """Refuse two words in a row: a command that is none, or two scenarios."""
    if len(given) < 2 or given[0].startswith("-") or given[1].startswith("-"):
        return
    import difflib

    for close in difflib.get_close_matches(given[0], commands, n=1):
        run_parser().error(f"{given[0]!r} is no command; did you mean {close!r}?")
    run_parser().error("one scenario is played at a time; compare plays several")


def _complain(error: SpecError) -> None:
    count = len(error.mistakes)
    for mistake in error.mistakes:
        print(f"error: {mistake}", file=sys.stderr)
    plural = "mistake" if count == 1 else "mistakes"
    print(f"desim: {count} {plural}; nothing was run or written", file=sys.stderr)


def _run(given: Sequence[str]) -> int:
    options = run_parser().parse_args(given)
    from desim.plan.load import load_scenario
    from desim.report.folder import results_folder
    from desim.report.progress import Progress

    loaded = load_scenario(options.scenario, options.set)
    scenario = loaded.scenario
    folder = results_folder(options.out, scenario.name)
    from desim.api import run

    show = sys.stderr.isatty() and not options.quiet
    with Progress(scenario.name, show=show) as progress:
        with _located(loaded):
            result = run(scenario, watch=progress.watch)
        progress.say("writing results")
        trace = scenario.output.trace != "none" and not options.no_trace
        report = scenario.output.report and not options.no_report
        try:
            written = result.write(folder, trace=trace, report=report)
        except OSError as error:
            return _cannot_write(error)
    _warn(loaded, result)
    if options.json:
        print(json.dumps(result.summary, indent=2))
    elif not options.quiet:
        _show(result, folder, written)
    return YOURS if options.strict_memory and not result.summary["fits"] else OK


@contextmanager
def _located(loaded: Loaded) -> Iterator[None]:
    """Name the scenario's file in mistakes that are found only once it is planned."""
    try:
        yield
    except SpecError as error:
        file = str(loaded.path or "")
        raise SpecError([replace(m, file=m.file or file) for m in error.mistakes]) from None


def _warn(loaded: Loaded, result: Result) -> None:
    """Say what differs from what was asked for, and loudly what does not fit."""
    for note in (*loaded.notes, *result.notes):
        print(f"warning: {note}", file=sys.stderr)
    for text in result.summary.get("warnings", []):
        print(f"WARNING: {text}", file=sys.stderr)


def _cannot_write(error: OSError) -> int:
    place = error.filename2 or error.filename
    where = f": {place}" if place else ""
    reason = error.strerror or error
    print(f"error: the results cannot be written: {reason}{where}", file=sys.stderr)
    return YOURS


def _show(result: Result, folder: Path, written: list[Path]) -> None:
    from desim.report.folder import left_from_before
    from desim.report.results import REPORT, SPANS, TRACE
    from desim.report.summary import render

    names = ", ".join(path.name for path in written)
    lines = textwrap.wrap(f"written to {folder}: {names}", _WIDTH, break_on_hyphens=False)
    old = left_from_before(folder, (TRACE, SPANS, REPORT), written)
    if old:
        lines.append(f"left there by an earlier run: {', '.join(old)}")
    text = render(result.summary, result.record, lines).rstrip()
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))


def _check(given: Sequence[str]) -> int:
    options = check_parser().parse_args(given)
    from desim.plan.load import load_scenario
    from desim.report.check import check_text, examine

    loaded = load_scenario(options.scenario, options.set)
    with _located(loaded):
        findings = examine(loaded.scenario)
    if options.json:
        print(json.dumps(findings | {"notes": list(loaded.notes)}, indent=2))
    else:
        print(check_text(findings, loaded.scenario, loaded.notes))
    return OK


def _list(given: Sequence[str]) -> int:
    options = list_parser().parse_args(given)
    from desim.report.listing import listing

    print(listing([options.kind] if options.kind else LISTS))
    return OK


def _validate(given: Sequence[str]) -> int:
    options = validate_parser().parse_args(given)
    from desim.validate.command import validate

    show = sys.stderr.isatty() and not options.quiet
    try:
        if options.effects is not None:
            from desim.validate.effects_command import validate_effects

            text = validate_effects(vars(options), show=show, command=["validate", *given])
            unscored = ""
        else:
            text, unscored = validate(vars(options), show=show, command=["validate", *given])
    except OSError as error:
        return _cannot_write(error)
    if not options.quiet:
        print(text, end="")
    if unscored:
        print(f"error: {unscored}", file=sys.stderr)
    return YOURS if unscored else OK


def _calibrate(given: Sequence[str]) -> int:
    if given and given[0] == "collectives":
        asked = collectives_parser().parse_args(given[1:])
        from desim.calibrate.node_command import calibrate_collectives

        print(calibrate_collectives(vars(asked)), end="")
        return OK
    options = calibrate_parser().parse_args(given)
    from desim.calibrate.command import calibrate

    try:
        text = calibrate(vars(options), show=sys.stderr.isatty() and not options.quiet)
    except OSError as error:
        return _cannot_write(error)
    if not options.quiet:
        print(text, end="")
    return OK


def _compare(given: Sequence[str]) -> int:
    options = compare_parser().parse_args(given)
    from desim.study.compare.command import compare_command

    try:
        text, warnings = compare_command(vars(options), show=sys.stderr.isatty())
    except OSError as error:
        return _cannot_write(error)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(text, end="")
    return OK


def _sweep(given: Sequence[str]) -> int:
    options = sweep_parser().parse_args(given)
    from desim.study.sweep.command import CannotWriteError, Interrupted, sweep_command

    try:
        text, any_played = sweep_command(
            vars(options), show=sys.stderr.isatty() and not options.quiet
        )
    except CannotWriteError as error:
        code = _cannot_write(error)
        print(f"desim: {error.kept}", file=sys.stderr)
        return code
    except Interrupted as stop:
        print(f"\ndesim: interrupted; {stop}", file=sys.stderr)
        return INTERRUPTED
    if not options.quiet:
        print(text, end="")
    if not any_played:
        print("error: no point could be played; `error` in points.csv says why", file=sys.stderr)
    return OK if any_played else YOURS


def _diff(given: Sequence[str]) -> int:
    options = diff_parser().parse_args(given)
    from desim.diff.command import diff

    print(diff(vars(options)), end="")
    return OK
