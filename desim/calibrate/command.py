"""The command `calibrate`: a machine's kernels to a table and a device file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from desim.calibrate.bench import measure
from desim.calibrate.cases import FORMATS, PARTS, grid_cases, plan_cases
from desim.calibrate.device_file import load_device, load_devices, write_device
from desim.calibrate.device_fit import fit_device
from desim.calibrate.journal import Journal
from desim.calibrate.recognise import recognise
from desim.calibrate.text import device_comments, render
from desim.errors import Mistake, SpecError
from desim.kernels.table_file import read_table
from desim.plan.build import build_plan
from desim.report.progress import Bar
from desim.spec.load import load_scenario
from desim.spec.tables import file_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from desim.calibrate.bench import Bench, Hardware, Outcome
    from desim.calibrate.cases import Case
    from desim.spec.hardware import Device

COLLECTIVES = "collectives"
_FOLDER = Path("hardware") / "measured"


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be measured, and where its results go."""

    device: Device
    table: Path
    yaml: Path
    cases: tuple[Case, ...]


def calibrate(options: Mapping[str, Any], *, show: bool) -> str:
    """Measure, fit, write table and device file, return the text to print.

    `options` are those of the command line by name, `show` whether to draw a bar. Raises
    SpecError without PyTorch or without a GPU, and OSError where something cannot be written.
    """
    parts = _choices("--only", options["only"], (*PARTS, COLLECTIVES))
    formats = _choices("--formats", options["formats"], FORMATS)
    if options["fit_only"]:
        return _fit(make_job(options, None, parts, formats), None)
    hardware = _find_hardware()
    if parts == (COLLECTIVES,) and hardware.count < 2:
        raise SpecError([Mistake("--only", "collectives need several GPUs, this machine has one")])
    job = make_job(options, hardware, parts, formats)
    bar = Bar(show=show)
    try:
        outcome = _measure(job, _bench(), bar)
        if COLLECTIVES in parts and hardware.count > 1:
            _measure_collectives(job, hardware, bar)
    finally:
        bar.clear()
    return _fit(job, outcome)


def make_job(
    options: Mapping[str, Any],
    hardware: Hardware | None,
    parts: tuple[str, ...],
    formats: tuple[str, ...],
) -> Job:
    """Settle device, files and cases; without hardware the device comes from the options."""
    out = Path(options["out"]) if options["out"] else None
    name = options["device"]
    if name is None and hardware is not None:
        name = recognise(hardware, load_devices())
    if name is None:
        name = _device_of_table(out)
    device = load_device(str(name))
    table = out or _FOLDER / f"{file_name(device.name)}.csv"
    yaml = Path(options["yaml"]) if options["yaml"] else table.with_suffix(".yaml")
    cases = _scenario_cases(options["scenario"]) if options["scenario"] else []
    cases += grid_cases(device, parts, formats)
    return Job(device, table, yaml, tuple(cases))


def _choices(option: str, text: str | None, known: tuple[str, ...]) -> tuple[str, ...]:
    """Read a list with commas; raises SpecError for a word that is not `known`."""
    if text is None:
        return known
    chosen = tuple(word.strip() for word in text.split(","))
    wrong = [word for word in chosen if word not in known]
    if wrong:
        what = "no such format" if known == FORMATS else "no such part"
        raise SpecError([Mistake(option, what, repr(wrong[0]), f"there are {', '.join(known)}")])
    return chosen


def _device_of_table(out: Path | None) -> str:
    """Return the device that the rows of a table name."""
    if out is None:
        rule = "a fit without measuring needs --out or --device to know its table"
        raise SpecError([Mistake("--fit-only", rule)])
    devices = {row.device for row in read_table(out)}
    if len(devices) != 1:
        rule = f"holds rows of {', '.join(sorted(devices)) or 'no device'}, one is needed"
        raise SpecError([Mistake("", rule, hint="or give --device", file=str(out))])
    return file_name(devices.pop())


def _scenario_cases(scenario: str) -> list[Case]:
    loaded = load_scenario(scenario, ["kernels.tables=none"])
    plan = build_plan(loaded.scenario)
    return plan_cases(plan, loaded.scenario.kernels.attention)


def _find_hardware() -> Hardware:
    """Raises SpecError without PyTorch or a GPU, and says what then can be done."""
    hint = "--fit-only fits a table that was measured elsewhere"
    try:
        from desim.calibrate.torch_bench import find_hardware
    except ImportError as error:
        if (error.name or "").split(".")[0] != "torch":
            raise
        rule = "calibrate measures with PyTorch, which is not installed"
        install = "python -m pip install torch"
        raise SpecError([Mistake("", rule, hint=f"{install}; {hint}")]) from None
    found = find_hardware()
    if found is None:
        rule = "calibrate measures the GPU of this machine, and PyTorch sees none"
        raise SpecError([Mistake("", rule, hint=hint)])
    return found


def _bench() -> Bench:
    from desim.calibrate.torch_bench import TorchBench

    return TorchBench()


def _measure(job: Job, bench: Bench, bar: Bar) -> Outcome:
    journal = Journal(job.table, job.device.name)
    return measure(job.cases, journal, bench, job.device.name, bar.begin, bar.done)


def _measure_collectives(job: Job, hardware: Hardware, bar: Bar) -> None:
    from desim.calibrate.torch_collectives import measure_collectives, wanted_collectives

    file = _collectives_table(job)
    wanted = wanted_collectives(hardware.count, file)
    if wanted:
        bar.begin("collectives", float(len(wanted)))
        gpu = file_name(job.device.name)
        measure_collectives(gpu, wanted, file, hardware.count, bar.done)


def _fit(job: Job, outcome: Outcome | None) -> str:
    """Fit what the table holds; measuring collectives alone leaves no table."""
    collectives = _collectives_table(job)
    written = [collectives] if collectives.is_file() else []
    rows = read_table(job.table) if outcome is None or job.table.is_file() else []
    fit = fit_device(job.device, rows)
    if rows:
        write_device(fit.device, device_comments(job.table, rows), job.yaml)
        written = [job.table, job.yaml, *written]
    return render(fit, outcome, written)


def _collectives_table(job: Job) -> Path:
    return job.table.with_name(f"{job.table.stem}_collectives.csv")
