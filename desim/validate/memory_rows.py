"""Rows of measured peaks of memory to scenarios: the columns of `peak_memory.csv`.

These rows leave nothing open: the software is named, and nothing overlapped in the runs (`notes`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from desim.errors import SpecError
from desim.spec.load import load_scenario
from desim.spec.scenario import Scenario
from desim.validate.assumptions import Assumptions, UnscoredError
from desim.validate.cells import count, word

#: Column `hw` begins with -> system.
_SYSTEMS = {
    "NVIDIA B200": "dgx_b200_ndr400",
    "NVIDIA A100 80GB PCIe": "a100_pcie_80",
}
_CONTEXT = {"": "all_gather", "a2a": "all_to_all", "all_gather": "all_gather", "p2p": "ring"}


def to_scenario(row: Mapping[str, str], _assumptions: Assumptions) -> Scenario:
    """Return the scenario of one row; raises UnscoredError where it cannot be run.

    Nothing is taken from the assumptions, which are rules for the columns of `step_time.csv`.
    """
    try:
        return load_scenario(_stated(row)).scenario
    except SpecError as error:
        raise UnscoredError("; ".join(str(mistake) for mistake in error.mistakes[:2])) from None


def _stated(row: Mapping[str, str]) -> dict[str, Any]:
    stages, virtual = count(row, "pp", 1), count(row, "vp", 1)
    return {
        "name": row.get("id", "row"),
        "workload": {
            "model": _model(row),
            "sequence_length": count(row, "seq"),
            "global_batch": count(row, "gbs"),
            "micro_batch": count(row, "mbs"),
            "precision": {"compute": word(row, "dtype"), "gradients": word(row, "grad_dtype")},
        },
        "cluster": {"system": _system(row), "devices": count(row, "gpus")},
        "parallel": {
            "tensor": count(row, "tp", 1),
            "sequence": row.get("sp") == "yes",
            "pipeline": stages,
            "virtual_stages": virtual,
            "context": count(row, "cp", 1),
            "expert": count(row, "ep", 1),
            "zero": count(row, "zero", 0),
        },
        "policies": {
            "schedule": "interleaved" if virtual > 1 else "1f1b",
            "recompute": row.get("recompute") or "none",
            "context": _CONTEXT[row.get("cp_comm", "")],
            "overlap": {
                "grad_reduce": "none",
                "param_gather": "none",
                "tensor": "none",
                "pipeline": "blocking",
            },
        },
        "kernels": {
            "attention": "cudnn" if "B200" in row["hw"] else "flash2",
            "fusion": "te",
            "te_version": row.get("te_version") or "2.11",
            "cross_entropy": "auto" if "fused" in row.get("ce_fusion", "") else "unfused",
        },
    }


def _system(row: Mapping[str, str]) -> str:
    for name, system in _SYSTEMS.items():
        if row.get("hw", "").startswith(name):
            return system
    raise UnscoredError(f"hw is not known: {row.get('hw', '')!r}")


def _model(row: Mapping[str, str]) -> dict[str, Any]:
    heads = count(row, "heads")
    model: dict[str, Any] = {
        "family": "transformer",
        "name": row.get("model", ""),
        "source": row.get("source", ""),
        "layers": count(row, "layers_run"),
        "hidden": count(row, "hidden"),
        "heads": heads,
        "kv_heads": count(row, "kv_heads", heads),
        "head_dim": count(row, "head_dim"),
        "ffn": count(row, "ffn"),
        "vocab": count(row, "vocab_padded"),
        "gated": True,
    }
    if row.get("attention") == "mla":
        model["head_dim"] = count(row, "qk_head_dim") + count(row, "qk_rope_dim")
        model["mla"] = {
            "q_rank": count(row, "q_lora"),
            "kv_rank": count(row, "kv_lora"),
            "nope_head_dim": count(row, "qk_head_dim"),
            "rope_head_dim": count(row, "qk_rope_dim"),
            "value_head_dim": count(row, "v_head_dim"),
        }
    if row.get("experts"):
        model["moe"] = {
            "experts": count(row, "experts"),
            "top_k": count(row, "topk"),
            "ffn": count(row, "moe_ffn"),
            "shared_ffn": count(row, "shared_expert_ffn", 0),
            "dense_layers": count(row, "dense_layers", 0),
        }
        if row.get("moe_capacity", "").startswith("factor"):
            model["moe"]["capacity_factor"] = float(row["moe_capacity"].split()[1].rstrip(","))
    return model
