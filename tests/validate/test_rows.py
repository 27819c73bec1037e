"""Rows of published measurements become scenarios by rules that anyone can read."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from desim.errors import DesimError
from desim.validate.assumptions import Assumptions, Rule, UnscoredError, load_assumptions
from desim.validate.measurements import Measurement, measured_step_s
from desim.validate.rows import to_scenario

TABLES = Path(__file__).parents[2] / "validation"
ROW = {
    "id": "a", "gpu": "H100", "num_gpus": "16.0", "num_layers": "8.0", "hidden": "1024.0",
    "heads": "8.0", "ffn_hidden": "4096.0", "vocab": "32000.0", "seq_len": "512.0",
    "tp": "2.0", "pp": "4.0", "micro_batch": "1.0", "global_batch": "16.0", "moe": "",
}  # fmt: skip
SYSTEM = Rule(settings={"cluster.system": "dgx_h100_ndr400"})


def test_what_a_row_states_is_what_the_scenario_says() -> None:
    scenario = to_scenario(ROW, Assumptions((SYSTEM,)))
    assert scenario.cluster.devices == 16
    assert (scenario.parallel.tensor, scenario.parallel.pipeline) == (2, 4)
    assert scenario.parallel.data == 2
    assert scenario.workload.model.kv_heads == 8
    assert scenario.workload.model.head_dim == 128


def test_a_later_rule_wins_and_blank_cells_are_filled() -> None:
    rules = (
        SYSTEM,
        Rule(settings={"policies.recompute": "full"}),
        Rule(when={"gpu": ("A*", "H*")}, settings={"policies.recompute": "none"}),
        Rule(when={"gpu": ("A*",)}, settings={"policies.recompute": "selective"}),
        Rule(when={"micro_batch": ("",)}, fill={"micro_batch": "2"}),
    )
    scenario = to_scenario({**ROW, "micro_batch": ""}, Assumptions(rules))
    assert scenario.policies.recompute == "none"
    assert scenario.workload.micro_batch == 2


def test_a_setting_below_a_name_keeps_the_rest_of_what_it_names() -> None:
    below = Rule(
        settings={"cluster.system.nics_per_node": 4, "cluster.system.device.power": "500 W"}
    )
    named = to_scenario(ROW, Assumptions((SYSTEM,))).cluster.system
    changed = to_scenario(ROW, Assumptions((SYSTEM, below))).cluster.system
    device = named.device.model_copy(update={"power_w": 500.0})
    assert changed == named.model_copy(update={"nics_per_node": 4, "device": device})


def test_uneven_ends_place_every_layer() -> None:
    row = {**ROW, "num_layers": "10"}
    scenario = to_scenario(row, Assumptions((SYSTEM, Rule(ends_fewer=1))))
    assert scenario.parallel.stage_layers == (2, 3, 3, 2)


@given(st.integers(1, 40), st.integers(2, 12), st.integers(0, 1))
def test_layers_are_spread_as_evenly_as_can_be(layers: int, parts: int, fewer: int) -> None:
    assume(layers >= parts)
    row = {**ROW, "tp": "1", "pp": str(parts), "num_gpus": "8", "num_layers": str(layers)}
    row["num_gpus"] = str(parts if parts <= 8 else 8 * parts)
    stages = to_scenario(row, Assumptions((SYSTEM, Rule(ends_fewer=fewer)))).parallel.stage_layers
    if stages is None:
        assert layers % parts == 0
        return
    whole = [stages[0] + fewer, *stages[1:-1], stages[-1] + fewer]
    assert sum(stages) == layers
    assert max(whole) - min(whole) <= 1


@pytest.mark.parametrize("column", ["num_layers", "micro_batch", "num_gpus"])
def test_a_missing_value_is_named(column: str) -> None:
    with pytest.raises(UnscoredError, match=column):
        to_scenario({**ROW, column: ""}, Assumptions((SYSTEM,)))


@pytest.mark.parametrize(
    ("column", "text", "why"),
    [
        ("hidden", "wide", "hidden is not a number: 'wide'"),
        ("hidden", "1e999", "hidden must be finite: '1e999'"),
        ("micro_batch", "2.5", "micro_batch must be a whole number: '2.5'"),
        ("heads", "0", "heads must be above 0: 0"),
        ("pp", "0", "pp must be above 0: 0"),
    ],
)
def test_a_wrong_number_is_named(column: str, text: str, why: str) -> None:
    with pytest.raises(UnscoredError, match=why):
        to_scenario({**ROW, column: text}, Assumptions((SYSTEM,)))


def test_a_mesh_that_is_not_all_devices_is_refused() -> None:
    assert to_scenario({**ROW, "dp": "2.0"}, Assumptions((SYSTEM,))).parallel.data == 2
    why = "must be num_gpus: 2 x 1 x 4 x 4 is not 16"
    with pytest.raises(UnscoredError, match=why):
        to_scenario({**ROW, "dp": "4"}, Assumptions((SYSTEM,)))


def test_an_unknown_gpu_is_named_with_those_that_are_known() -> None:
    rule = Rule(when={"gpu": ("A100*", "B200")}, settings=SYSTEM.settings)
    with pytest.raises(UnscoredError, match=r"gpu 'H100', only for: A100\*, B200; use one of"):
        to_scenario(ROW, Assumptions((rule,)))
    with pytest.raises(UnscoredError, match="gpu is neither stated nor assumed"):
        to_scenario({**ROW, "gpu": ""}, Assumptions((rule,)))


def test_an_impossible_row_says_why() -> None:
    with pytest.raises(UnscoredError, match="tensor"):
        to_scenario({**ROW, "tp": "3"}, Assumptions((SYSTEM,)))


def test_step_time_from_tokens_is_the_step_time() -> None:
    row = {**ROW, "measured_tokens_per_s_per_gpu": "512"}
    stated = {**row, "measured_step_time_s": "3.5"}
    assert measured_step_s(Measurement(2, "a", "A", "own", row)) == pytest.approx(
        16 * 512 / (512 * 16)
    )
    assert measured_step_s(Measurement(2, "a", "A", "own", stated)) == 3.5


@pytest.mark.parametrize(
    "text", ["", "rules: 3", "rules: [{wen: {gpu: a}}]", "rules: [{set: 3}]", "rules: [", "- 3"]
)
def test_a_wrong_assumptions_file_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "assumptions.yaml"
    path.write_text(text)
    with pytest.raises(DesimError, match="assumptions"):
        load_assumptions(path)


def test_every_rule_of_the_project_is_for_some_row() -> None:
    rules = load_assumptions(TABLES / "assumptions.yaml").rules
    rows = []
    for name in ("step_time.csv", "peak_memory.csv"):
        with open(TABLES / name, newline="") as file:
            rows += list(csv.DictReader(file))
    idle = [rule for rule in rules if not any(rule.matches(row) for row in rows)]
    assert idle == []
