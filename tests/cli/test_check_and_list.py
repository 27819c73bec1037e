"""`check` validates and estimates; `list` says what scenarios can name."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import pytest

import desim
from desim.options import LISTS
from desim.spec.flags import FLAGS
from desim.spec.load import load_scenario
from desim.spec.policy import Policies
from tests.cli.conftest import ROOT, Cli, files, shell


def test_check_text(cli: Cli) -> None:
    said = cli("check", ROOT / "scenarios" / "llama70b_2048.yaml")
    assert (said.code, said.err) == (0, "")
    for words in (
        "llama70b_2048: valid",
        "parameters     68,976,648,192",
        "mesh           tp8 cp1 ep1 dp32 pp8",
        "dp           64 groups of 32 ranks on 32 nodes each",
        "micro-batches  32 per step and pipeline",
        "stage 7 ",
        "  data: 32\n",
    ):
        assert words in said.out, words


def test_check_tells_what_of_a_mixture_a_token_meets(tiny: Path, cli: Cli) -> None:
    moe = "workload.model.moe={experts: 8, top_k: 2, ffn: 512}"
    said = cli("check", tiny, "--set", moe)
    found = cli("check", tiny, "--set", moe, "--json").json
    whole, active = found["parameters"], found["active_parameters"]
    assert f"parameters     {whole:,}, of which a token meets {active:,}\n" in said.out
    model = found["scenario"]["workload"]["model"]
    assert whole - active == model["layers"] * 6 * 3 * model["hidden"] * 512


def test_check_json(tiny: Path, cli: Cli) -> None:
    found = cli("check", tiny, "--json").json
    assert set(found) == {
        "name", "scenario", "parameters", "active_parameters", "model_flops_per_step",
        "num_devices", "mesh", "order", "groups", "micro_batches", "peak_memory_bytes",
        "needed_memory_bytes", "device_memory_bytes", "fits", "notes",
    }  # fmt: skip
    assert found["mesh"] == {"tp": 2, "cp": 1, "ep": 1, "dp": 2, "pp": 2}
    assert found["groups"]["pp"] == {"ranks": 2, "groups": 4, "nodes": 1}
    assert desim.load(found["scenario"]) == load_scenario(tiny).scenario


def test_expert_groups_are_shown(tiny: Path, cli: Cli) -> None:
    """They share ranks with the other axes, so that the sizes multiply to more than the devices."""
    options = ("--set", "workload.model.moe={experts: 8, top_k: 2, ffn: 512}",
               "--set", "parallel.expert=2")  # fmt: skip
    found = cli("check", tiny, *options, "--json").json
    assert found["mesh"] == {"tp": 2, "cp": 1, "ep": 2, "dp": 2, "pp": 2}
    assert found["groups"]["ep"] == {"ranks": 2, "groups": 4, "nodes": 1}
    ran = cli(tiny, *options, "--json", "--no-trace", "--no-report").json
    assert ran["mesh"] == "tp2 ep2 dp2 pp2"


def test_check_estimates_what_a_run_finds(tiny: Path, cli: Cli) -> None:
    """Bytes of the ledger need no clock."""
    ran = cli(tiny, "--json", "--no-trace", "--no-report").json
    assert cli("check", tiny, "--json").json["peak_memory_bytes"] == ran["peak_memory_bytes"]


def test_check_runs_and_writes_nothing(tiny: Path, cli: Cli) -> None:
    said = cli("check", tiny, "--set", "run.fold=false", "--set", "parallel.virtual_stages=2")
    assert said.code == 0
    assert "warning: parallel.virtual_stages: virtual_stages has no effect" in said.out
    assert files(tiny.parent) == ["tiny.yaml"]


def test_list(tmp_path: Path) -> None:
    said = shell("list", cwd=tmp_path)
    assert (said.code, said.err) == (0, "")
    headings = [line[:-1] for line in said.out.splitlines() if line.endswith(":")]
    assert headings == list(LISTS)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("workloads", ["llama2_70b", "llama_65b", "dlrm_a"]),
        ("devices", ["h100_sxm_80gb", "h100_sxm_96gb_hbm2e_500w", "v100_sxm2_32gb", "gb200"]),
        ("fabrics", ["ib_ndr400"]),
        ("systems", ["dgx_h100_ndr400", "gb200_nvl72"]),
        ("schedules", list(get_args(Policies.model_fields["schedule"].annotation))),
        ("policies", ["policies.schedule", "kernels.attention", "policies.bucket"]),
    ],
)
def test_list_one_kind(cli: Cli, kind: str, names: list[str]) -> None:
    lines = cli("list", kind).out.splitlines()
    listed = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert set(names) <= set(listed)
    assert len(listed) == len(set(listed))
    assert max(map(len, lines)) <= 98


def test_defaults_choices_and_switches_are_listed_as_they_are_written(cli: Cli) -> None:
    parts = re.split(r"\n(?! )", cli("list", "policies").out.rstrip())
    said = {part.split()[0]: part.splitlines() for part in parts}
    written = {path: lines[0].rsplit("default ", 1)[-1] for path, lines in said.items()}
    assert written["policies.bucket"] == "null"
    assert written["policies.overlap.grad_reduce"] == "bucketed"
    assert written["policies.gradient_clipping"] == "true"
    choices = {path: lines[1].strip() for path, lines in said.items() if len(lines) > 1}
    assert choices["policies.recompute_layers"] == "a whole number, or null"
    assert choices["kernels.apart"] == "a list of qkv | gate_up"
    assert choices["policies.bucket"] == "a quantity with its unit, or null"
    assert " ".join(map(str.strip, said["policies.schedule"])).count("| custom") == 1
    assert choices["policies.schedule_memory"] == "a number"
    assert choices["policies.custom"] == "a mapping of orders, placement, or null"
    overlap = said["policies.overlap.grad_reduce"]
    assert overlap[1].split(" | ") == ["    none", "bucketed", "per_layer"]
    for choice, flags in FLAGS["policies.overlap.grad_reduce"].items():
        first = next(line for line in overlap[2:] if line.split()[0] == choice)
        assert first.split(maxsplit=1)[1] == flags[0]


def test_what_is_no_command_and_a_second_scenario_are_said(cli: Cli) -> None:
    said = cli("chek", "a.yaml")
    assert said.code == 2
    assert said.err.endswith("error: 'chek' is no command; did you mean 'check'?\n")
    said = cli("a.yaml", "b.yaml")
    assert said.code == 2
    assert said.err.endswith("error: one scenario is played at a time; compare plays several\n")


def test_version_and_help(cli: Cli) -> None:
    assert cli("--version").out == f"desim {version('desim')}\n"
    for arguments in (["--help"], ["check", "--help"], ["list", "--help"]):
        assert cli(*arguments).code == 0
