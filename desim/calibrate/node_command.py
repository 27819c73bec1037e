"""The command `calibrate collectives`: a table of measured collectives to a system's fields."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

from desim.calibrate.collectives import Measured, NodeFit, fit_node
from desim.errors import Mistake, SpecError
from desim.spec.hardware import System
from desim.spec.load import load_scenario

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAMES = {"alltoall": "all_to_all"}
_FEWEST = 20  # rows that tell three protocols apart


def calibrate_collectives(options: Mapping[str, Any]) -> str:
    """Fit the collectives of one node; return the fields of its system as YAML.

    `options` are those of `desim calibrate collectives`. Raises SpecError for what they name.
    """
    file, gpu = Path(options["file"]), str(options["gpu"])
    try:
        rows = read_measured(file, gpu)
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError([Mistake("", f"cannot be read: {error}", file=str(file))]) from None
    except (KeyError, ValueError) as error:
        rule = f"is not a table of collectives: {type(error).__name__} {error}"
        hint = "columns as in validation/collectives.csv"
        raise SpecError([Mistake("", rule, hint=hint, file=str(file))]) from None
    if len(rows) < _FEWEST:
        rule = f"has {len(rows)} rows of one node with gpu {gpu!r}; a fit needs {_FEWEST}"
        raise SpecError([Mistake("--gpu", rule, file=str(file))])
    return as_yaml(fit_node(_system(str(options["system"])), rows, f"{file} gpu {gpu}"))


def read_measured(file: Path, gpu: str) -> list[Measured]:
    """Rows of one GPU and one node, with the columns of a table in validation/.

    `collectives.csv`, or `nccl_all_reduce_sweep.csv`, of whose many large sizes one in 16 is taken.
    """
    with file.open(newline="") as lines:
        table = [row for row in csv.DictReader(lines) if row["gpu"] == gpu]
    if table and "n_gpus" in table[0]:
        return _all_reduces(table)
    return [
        Measured(
            collective=_NAMES.get(row["op"], row["op"]),
            ranks=int(row["num_gpus"]),
            size_bytes=float(row["bytes"]),
            seconds=float(row["time_ms"]) * 1e-3,
        )
        for row in table
        if row["nodes"] == "1"
    ]


def _all_reduces(table: list[dict[str, str]]) -> list[Measured]:
    rows = [
        Measured(
            collective="all_reduce",
            ranks=int(row["n_gpus"]),
            size_bytes=float(row["bytes"]),
            seconds=float(row["out_of_place_ns"]) * 1e-9,
        )
        for row in table
    ]
    few = 32 * 2**20
    return [row for row in rows if row.size_bytes <= few or row.size_bytes % (few / 2) == 0]


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
