"""The data that desim ships: complete, sourced, and with the published totals."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from desim.spec.catalogue import FOLDERS, list_names
from desim.spec.load import load_scenario
from desim.spec.workload import Dlrm, Transformer
from desim.spec.yaml_source import read_file

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(file for folder in FOLDERS.values() for file in (ROOT / folder).glob("*.yaml"))
_DEVICES = [
    "v100_sxm2_32gb",
    "v100_sxm2_16gb",
    "a100_sxm_40gb",
    "a100_sxm_80gb",
    "a100_pcie_40gb",
    "a100_pcie_80gb",
    "h100_sxm_80gb",
    "h100_pcie_80gb",
    "h100_sxm_96gb_hbm2e_500w",
    "h800_sxm_80gb",
    "h200_sxm_141gb",
    "b200_sxm_180gb",
    "gb200",
]


def job(model: str = "llama2_7b", system: object = "dgx_h100_ndr400") -> dict[str, Any]:
    return {
        "name": "job",
        "workload": {
            "model": model, "sequence_length": 2048, "global_batch": 8, "micro_batch": 1,
            "precision": {"compute": "fp16"},
        },
        "cluster": {"system": system, "devices": 8},
        "kernels": {"attention": "unfused"},
    }  # fmt: skip


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_file_has_a_source(file: Path) -> None:
    data = read_file(file).value
    assert isinstance(data, dict)
    assert len(str(data["source"].value)) > 20
    text = file.read_text(encoding="ascii")
    assert max(len(line) for line in text.splitlines()) <= 100


@pytest.mark.parametrize("name", list_names("systems", ROOT))
def test_every_system_loads(name: str) -> None:
    system = load_scenario(job(system=name)).scenario.cluster.system
    assert system.device.peak_flops_per_s.keys() == system.device.kernels.gemm_efficiency.keys()
    peak = system.device.peak_flops_per_s
    assert peak["fp16"] >= peak["fp32"]


@pytest.mark.parametrize("name", list_names("fabrics", ROOT))
def test_every_fabric_loads(name: str) -> None:
    system = {"base": "dgx_h100_ndr400", "fabric": name}
    assert load_scenario(job(system=system)).notes == ()


def test_the_promised_devices_are_there_and_each_loads() -> None:
    assert set(_DEVICES) <= set(list_names("devices", ROOT))
    for name in list_names("devices", ROOT):
        system = {"base": "dgx_h100_ndr400", "device": name, "nvlink_domain": 1}
        load_scenario(job(system=system))


def parameters(model: Transformer | Dlrm) -> int:
    """Parameters counted from the definition of the families, apart from desim's own count."""
    if isinstance(model, Dlrm):
        mlps = [*pairwise(model.bottom_mlp), *pairwise(model.top_mlp)]
        return model.tables * model.rows * model.embedding_dim + sum(a * b for a, b in mlps)
    attention = model.hidden * model.head_dim * (2 * model.heads + 2 * model.kv_heads)
    mlp = (3 if model.gated else 2) * model.hidden * model.ffn
    norm = model.hidden * (2 if model.norm == "layer" else 1)
    bias = 0
    if model.bias:
        bias = model.head_dim * (model.heads + 2 * model.kv_heads) + model.ffn + 2 * model.hidden
    tables = model.vocab * (1 if model.tied_embeddings else 2) + model.max_positions
    return model.layers * (attention + mlp + bias + 2 * norm) + tables * model.hidden + norm


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("llama2_7b", 6_738_415_616),
        ("llama2_13b", 13_015_864_320),
        ("llama2_70b", 68_976_648_192),
        ("llama_7b", 6_738_415_616),
        ("llama_13b", 13_015_864_320),
        ("llama_33b", 32_528_943_616),
        ("llama_65b", 65_285_660_672),
        ("llama3_8b", 8_030_261_248),
        ("llama3_70b", 70_553_706_496),
        # No exact count is published for GPT-3: this is GPT-2's layout at its sizes, 174.6 B.
        ("gpt3_175b", 174_604_259_328),
        ("dlrm_a", 801_168_960_720),
    ],
)
def test_parameters_are_the_published_ones(name: str, published: int) -> None:
    data = job(model=name)
    if name == "dlrm_a":
        data["workload"].pop("sequence_length")
    assert parameters(load_scenario(data).scenario.workload.model) == published


def test_dlrm_a_as_published() -> None:
    data = job(model="dlrm_a")
    data["workload"].pop("sequence_length")
    model = load_scenario(data).scenario.workload.model
    assert isinstance(model, Dlrm)
    mlps = [*pairwise(model.bottom_mlp), *pairwise(model.top_mlp)]
    assert len(mlps) == 20
    assert 2 * sum(a * b for a, b in mlps) == pytest.approx(0.638e9, rel=1e-3)
    looked_up = model.tables * model.pooling * model.embedding_dim * 2
    assert looked_up == pytest.approx(11.55e6, rel=1e-3)
