"""The command `compare`: options in, files and text out."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from desim.errors import Mistake, SpecError
from desim.pool import processes_of
from desim.report.compared import model_errors, warnings
from desim.report.folder import left_from_before, results_folder
from desim.report.progress import Bar
from desim.report.wrap import wrapped
from desim.study.compare.comparison import RESOLVED, compare_variants
from desim.study.compare.given import given
from desim.study.compare.retune import parse_retune, require_free, retune
from desim.study.compare.variants import MAX_VARIANTS, combine, parse_axis, require_number, varied

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from desim.study.axis import Axis
    from desim.study.compare.variants import Variant


def compare_command(options: Mapping[str, Any], *, show: bool) -> tuple[str, list[str]]:
    """Compare what the options name, write the results, return the text to print and warnings.

    `options` are those of the command line by name, `show` whether to draw a bar. Raises SpecError
    for what is wrong with an option or a scenario, before anything is written, and OSError where
    something cannot be written.
    """
    names = parse_retune(options["retune"]) if options["retune"] is not None else ()
    variants = _variants(options)
    require_free(names, list(variants[0].setting) if options["vary"] else [])
    title = _title(variants, options)
    folder = results_folder(options["out"], _folder_name(variants))
    bar = Bar(show=show)
    began_s = time.monotonic()
    try:
        if names:
            variants = retune(variants, names, processes_of(), bar.begin, bar.done)
        comparison = compare_variants(title, variants, begin=bar.begin, done=bar.done)
        bar.begin("writing results", 1.0)
        written = comparison.write(folder)
    finally:
        bar.clear()
    if options["json"]:
        text = json.dumps(comparison.as_json(), indent=2) + "\n"
        return text, warnings(comparison.runs)
    took_s = time.monotonic() - began_s
    errors = "; ".join(model_errors(comparison.runs))
    closing = [
        *wrapped("model error in a change of the step time: ", errors.split(), " "),
        f"{len(variants)} variants in {took_s:.1f} s",
        *_files(folder, written),
    ]
    return comparison.render(closing), warnings(comparison.runs)


def _variants(options: Mapping[str, Any]) -> list[Variant]:
    """Return the variants that the options name."""
    files: Sequence[str] = options["scenarios"]
    if not options["vary"]:
        if options["paired"]:
            rule = "needs at least two --vary, whose values are taken together"
            raise SpecError([Mistake("", rule, "0", file="--paired")])
        require_number(len(files))
        return given(files, options["set"])
    if len(files) > 1:
        rule = "varies one scenario, so that only one can be given"
        raise SpecError([Mistake("", rule, f"{len(files)} scenarios", file="--vary")])
    axes: list[Axis] = []
    mistakes: list[Mistake] = []
    for text in options["vary"]:
        try:
            axes.append(parse_axis(text))
        except SpecError as error:
            mistakes.extend(error.mistakes)
    if mistakes:
        raise SpecError(mistakes)
    _require_not_set(axes, options["set"])
    return varied(files[0], options["set"], combine(axes, paired=options["paired"]))


def _require_not_set(axes: Sequence[Axis], overrides: Sequence[str]) -> None:
    """Refuse a path that is set for all variants and varied too."""
    paths = {axis.path for axis in axes}
    twice = [text for text in overrides if text.partition("=")[0].strip() in paths]
    if twice:
        rule, hint = "is varied too, so that no variant would have this value", "leave one out"
        raise SpecError([Mistake("", rule, hint=hint, file=f"--set {text}") for text in twice])


def _title(variants: Sequence[Variant], options: Mapping[str, Any]) -> str:
    """Return what is compared, in a line."""
    if not options["vary"]:
        return " and ".join([", ".join(v.name for v in variants[:-1]), variants[-1].name])
    paths = list(variants[0].setting)
    varied_paths = ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
    return f"{variants[0].scenario.name}: {len(variants)} variants of {varied_paths}"


def _folder_name(variants: Sequence[Variant]) -> str:
    names = list(dict.fromkeys(variant.scenario.name for variant in variants))
    return "_".join(["compare", *names])[:80]


def _files(folder: Path, written: Sequence[Path]) -> list[str]:
    """Say what was written, and what an earlier comparison of more variants has left there."""
    names = [path.name for path in written]
    resolved = names[3:]
    shown = [*names[:3], f"{resolved[0]} to {resolved[-1]}"]
    lines = list(wrapped(f"written to {folder}: ", shown))
    every = tuple(RESOLVED.format(number) for number in range(1, MAX_VARIANTS + 1))
    left = left_from_before(folder, every, list(written))
    return [*lines, *(wrapped("left there by an earlier run: ", left) if left else ())]
