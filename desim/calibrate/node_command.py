"""The command `calibrate collectives`: a table of measured collectives to a system's fields."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from desim.calibrate.collectives import Measured, NodeFit, fit_node
from desim.errors import Mistake, SpecError
from desim.spec.hardware import System
from desim.spec.load import load_scenario
from desim.spec.text_file import read_table_text, refuse, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_NAMES = {"alltoall": "all_to_all"}
_FEWEST = 20  # rows that tell three protocols apart
_COLUMNS = "columns as in validation/collectives.csv"


def calibrate_collectives(options: Mapping[str, Any]) -> str:
    """Fit the collectives of one node; return the fields of its system as YAML.

    `options` are those of `desim calibrate collectives`. Raises SpecError for what they name.
    """
    file, gpu = Path(options["file"]), str(options["gpu"])
    rows = read_measured(file, gpu)
    if len(rows) < _FEWEST:
        rule = f"has {len(rows)} rows of one node with gpu {gpu!r}; a fit needs {_FEWEST}"
        there = ", ".join(sorted({row["gpu"] for _, row in _table(file)}))
        raise SpecError([Mistake("--gpu", rule, hint=f"there are {there}", file=shown(file))])
    return as_yaml(fit_node(_system(str(options["system"])), rows, f"{file} gpu {gpu}"))


def read_measured(file: Path, gpu: str) -> list[Measured]:
    """Rows of one GPU and one node, with the columns of a table in validation/.

    `collectives.csv`, or `nccl_all_reduce_sweep.csv`, of whose many large sizes one in 16 is taken.
    Raises SpecError, which names every line that is no such row.
    """
    rows: list[Measured] = []
    mistakes = []
    for line, cells in _table(file):
        if cells["gpu"] != gpu:
            continue
        try:
            rows.extend(_measured(cells))
        except (KeyError, TypeError, ValueError) as error:
            what = f"lacks the column {error}" if isinstance(error, KeyError) else str(error)
            rule = f"is not a measured collective: {what}"
            mistakes.append(Mistake("", rule, hint=_COLUMNS, file=shown(file), line=line))
    if mistakes:
        raise SpecError(mistakes)
    return rows


def _table(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a table with their lines; raises SpecError for what is none."""
    reader = csv.DictReader(io.StringIO(read_table_text(file), newline=""))
    if "gpu" not in (reader.fieldnames or ()):
        raise refuse(shown(file), "lacks the column gpu", _COLUMNS, 1)
    for cells in reader:
        yield reader.line_num, cells


def _measured(row: Mapping[str, str]) -> Iterator[Measured]:
    """Yield what a row says, if it is of one node and taken."""
    if "n_gpus" in row:
        size_bytes, few = float(row["bytes"]), 32 * 2**20
        if size_bytes <= few or size_bytes % (few / 2) == 0:
            seconds = float(row["out_of_place_ns"]) * 1e-9
            yield Measured("all_reduce", int(row["n_gpus"]), size_bytes, seconds)
    elif row["nodes"] == "1":
        yield Measured(
            collective=_NAMES.get(row["op"], row["op"]),
            ranks=int(row["num_gpus"]),
            size_bytes=float(row["bytes"]),
            seconds=float(row["time_ms"]) * 1e-3,
        )


def as_yaml(fit: NodeFit) -> str:
    """The fields of a system and of its file in hardware/collectives."""
    fields = fit.node_collectives.model_dump(mode="json", by_alias=True, exclude_none=True)
    lines = [
        f"# mean error {fit.error:.1%}",
        f"nvlink_latency: {fit.nvlink_latency_s * 1e6:g} us",
        f"nvlink_efficiency: {fit.nvlink_efficiency:g}",
    ]
    if fit.nvls_efficiency is not None:
        lines.append(f"nvls_efficiency: {fit.nvls_efficiency:g}")
    lines.append("node_collectives:")
    for name, value in fields.items():
        if isinstance(value, dict):
            value = "{" + ", ".join(f"{key}: {part}" for key, part in value.items()) + "}"
        lines.append(f"  {name}: {value}")
    return "\n".join(lines) + "\n"


def _system(name: str) -> System:
    """A system of the catalogue, in the smallest scenario that holds it."""
    scenario = {
        "name": "calibrate",
        "workload": {
            "model": "gpt3_175b",
            "sequence_length": 1024,
            "global_batch": 64,
            "micro_batch": 1,
            "precision": {"compute": "fp16"},
        },
        "cluster": {"system": name, "devices": 1},
        "kernels": {"attention": "unfused"},
    }
    return load_scenario(scenario).scenario.cluster.system
