"""Rows of published measurements to scenarios that anyone can run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod
from typing import Any

from desim.errors import SpecError
from desim.spec.load import load_scenario
from desim.spec.scenario import Scenario
from desim.validate.assumptions import Assumed, Assumptions, UnscoredError
from desim.validate.cells import count, positive, word


def to_scenario(row: Mapping[str, str], assumptions: Assumptions) -> Scenario:
    """Return the scenario of one row of a table with the columns of `step_time.csv`.

    What the row says is taken from it, what it leaves open from `assumptions`. Raises UnscoredError
    where a needed value is neither stated nor assumed, or the scenario cannot be run.
    """
    assumed = assumptions.apply(row)
    data = _stated(assumed)
    for path, value in assumed.settings.items():
        _place(data, path.split("."), value)
    _settle(data, assumed)
    if "system" not in data["cluster"]:
        gpu, known = word(assumed.row, "gpu"), assumptions.patterns("gpu", "cluster.system")
        raise UnscoredError(
            f"no assumption names a system for gpu {gpu!r}, only for: {known}; "
            "use one of these names or add a rule"
        )
    try:
        return load_scenario(data).scenario
    except SpecError as error:
        raise UnscoredError("; ".join(str(mistake) for mistake in error.mistakes[:2])) from None


def _stated(assumed: Assumed) -> dict[str, Any]:
    """Return what a row states, as a scenario's mapping."""
    row = assumed.row
    devices = count(row, "num_gpus")
    cut = {"tensor": "tp", "pipeline": "pp", "context": "cp", "expert": "ep"}
    parallel: dict[str, Any] = {key: positive(row, column, 1) for key, column in cut.items()}
    if row.get("sp"):
        parallel["sequence"] = count(row, "sp") == 1
    if parallel["pipeline"] > 1 and row.get("vp"):
        parallel["virtual_stages"] = positive(row, "vp")
    if row.get("dp", "").strip():
        _require_devices(
            devices, *(positive(row, column, 1) for column in ("tp", "cp", "pp", "dp"))
        )
    return {
        "name": row.get("id", "row"),
        "workload": {
            "model": _model(row),
            "sequence_length": count(row, "seq_len"),
            "global_batch": count(row, "global_batch"),
            "micro_batch": count(row, "micro_batch"),
        },
        "cluster": {"devices": devices},
        "parallel": parallel,
    }


def _require_devices(devices: int, *axes: int) -> None:
    """Raise UnscoredError where the mesh that a row states is not all of its devices."""
    if prod(axes) != devices:
        mesh = " x ".join(map(str, axes))
        raise UnscoredError(f"tp x cp x pp x dp must be num_gpus: {mesh} is not {devices}")


def _model(row: Mapping[str, str]) -> dict[str, Any]:
    heads = positive(row, "heads")
    model: dict[str, Any] = {
        "family": "transformer",
        "name": row.get("model", ""),
        "source": row.get("source", ""),
        "layers": count(row, "num_layers"),
        "hidden": count(row, "hidden"),
        "heads": heads,
        "kv_heads": count(row, "kv_heads", heads),
        "head_dim": count(row, "hidden") // heads,
        "ffn": count(row, "ffn_hidden"),
        "vocab": count(row, "vocab"),
        "gated": True,
    }
    if row.get("moe"):
        model["moe"] = _mixture(row["moe"], model["ffn"], row.get("notes", ""))
        if "MLA" in row["moe"].split(";"):
            model |= {"mla": _LATENT, "kv_heads": heads, "head_dim": 192}
    return model


#: Latent attention of DeepSeek-V2 and -V3 alike (arXiv:2405.04434, section 3.1.2; 2412.19437, 4.2).
_LATENT = {
    "q_rank": 1536,
    "kv_rank": 512,
    "nope_head_dim": 128,
    "rope_head_dim": 64,
    "value_head_dim": 128,
}


def _mixture(text: str, ffn: int, notes: str) -> dict[str, Any]:
    """Read a mixture as the tables write it: `experts=160;topk=6;shared=2;moe_ffn=1536;...`.

    What its field leaves out may stand in the notes: `dense_layers=1`. With `interleaved` every
    second layer has experts.
    """
    noted = dict(re.findall(r"(dense_layers)=(\d+)", notes))
    fields = noted | dict(item.split("=", 1) for item in text.split(";") if "=" in item)
    try:
        width = int(fields.get("moe_ffn", ffn))
        mixture = {
            "experts": int(fields["experts"]),
            "top_k": int(fields["topk"]),
            "ffn": width,
            "shared_ffn": int(fields.get("shared", 0)) * width,
            "dense_layers": int(fields.get("dense_layers", 0)),
            "every": 2 if "interleaved" in text.split(";") else 1,
        }
    except (KeyError, ValueError):
        raise UnscoredError(f"mixture of experts cannot be read: {text!r}") from None
    return mixture


def _place(data: dict[str, Any], path: list[str], value: Any) -> None:
    """Set one dotted path; a name that it leads into becomes the base of what is set."""
    *parents, last = path
    for key in parents:
        below = data.setdefault(key, {})
        if isinstance(below, str):
            below = data[key] = {"base": below}
        data = below
    data[last] = value


def _settle(data: dict[str, Any], assumed: Assumed) -> None:
    """Make what follows from the rest agree with it."""
    model, parallel = data["workload"]["model"], data["parallel"]
    policies = data.setdefault("policies", {})
    if model.get("position") == "learned":
        model["max_positions"] = data["workload"]["sequence_length"]
    if parallel["pipeline"] == 1:
        policies["schedule"] = "1f1b"
    if policies.get("schedule") == "1f1b":
        parallel.pop("virtual_stages", None)
    parts = parallel["pipeline"] * parallel.get("virtual_stages", 1)
    fewer = assumed.ends_fewer if parts > 1 else 0
    if fewer or model["layers"] % parts:
        parallel["stage_layers"] = _spread(model["layers"], parts, fewer)


def _spread(layers: int, parts: int, fewer: int) -> list[int]:
    """Return the layers of each model chunk: as even as can be, the ends with `fewer` less.

    Where they do not divide, the first chunks hold one more, as DeepSpeed's balanced partition.
    """
    size, rest = divmod(layers + 2 * fewer, parts)
    sizes = [size + (part < rest) for part in range(parts)]
    sizes[0] -= fewer
    sizes[-1] -= fewer
    return sizes
