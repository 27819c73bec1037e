"""Effects of policies: pairs of rows, their measured and simulated ratio, and its direction."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from desim.api import Prediction
from desim.spec.scenario import Scenario
from desim.study.compare.model_error import TABLE as ERRORS
from desim.validate.effects import effect_of, summary
from desim.validate.effects_file import EffectsFile, read_effects
from desim.validate.measurements import Measurement, read_measurements
from desim.validate.pairs import all_rows, find_pairs
from tests.cli.conftest import ROOT, Cli, cli

__all__ = ["cli"]

TABLE = ROOT / "validation" / "step_time.csv"
ASSUMED = ROOT / "validation" / "assumptions.yaml"
#: Pairs of every source whose effects are to be reproduced that play in a second or two.
FAST = {
    "zero-bubble/ZB-1p": ("zb-t4-1.5B-1F1B-m24", "zb-t4-1.5B-ZB-1p-m24"),
    "zero-bubble/interleaved 1F1B": ("zb-t4-1.5B-1F1B-m24", "zb-t4-1.5B-1F1B-I-m24"),
    "korthikanti/selective recomputation with sequence parallelism for full": (
        "korth-t5-22B-full", "korth-t5-22B-selective"),
    "internevo/ZeRO-1 within the node": (
        "internevo-tgs-tp1-zero1=-1-g64", "internevo-tgs-tp1-zero1=8-g64"),
    "internevo/full recomputation": ("internevo-tgs-tp1-zero1=8-g16", "internevo-ckpt-g16-mb8"),
    "internevo/tensor 2, micro-batch twice": (
        "internevo-tgs-tp1-zero1=-1-g16", "internevo-tgs-tp2-zero1=-1-g16"),
    "llm-foundry/fp8": ("llmf-h10080gb-1b-s512-g8-mb56", "llmf-h10080gb-1b-s512-g8-mb56-fp8"),
    "torchtitan/torch.compile": ("titan-8b-g8-fsdp", "titan-8b-g8-fsdp-compile"),
    "torchtitan/float8, one scale a tensor": (
        "titan-8b-g8-fsdp-compile", "titan-8b-g8-fsdp-compile-fp8"),
}  # fmt: skip


def published() -> dict[str, Any]:
    data: dict[str, Any] = YAML(typ="safe").load((ROOT / "validation" / "effects.yaml").read_text())
    return data


def write_small(folder: Path) -> Path:
    """The rows of the fast pairs, and of the declarations those that they need."""
    data = published()
    data["policies"] = [p for p in data["policies"] if f"{p['family']}/{p['name']}" in FAST]
    extra = {row["id"]: row for row in data["rows"]}
    ids = {name for pair in FAST.values() for name in pair}
    data["rows"] = [extra[name] for name in ids if name in extra]
    data["readings"] = {}
    with TABLE.open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["id"] in ids]
    with (folder / "rows.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    YAML().dump(data, folder / "effects.yaml")
    return folder / "rows.csv"


def test_policies_go_the_way_that_was_measured(tmp_path: Path, cli: Cli) -> None:
    """Each of these effects exceeds its source's noise; desim's is on the same side, near it."""
    file, out = write_small(tmp_path), tmp_path / "out"
    said = cli("validate", file, "--effects", out / "page.md", "--json", out / "effects.json",
        "--assumptions", ASSUMED, "--jobs", "2")  # fmt: skip
    assert (said.code, said.err) == (0, ""), said.err
    found = json.loads((out / "effects.json").read_text())
    pairs = {(pair["reference"][0], pair["changed"][0]): pair for pair in found["pairs"]}
    assert {pair["policy"] for pair in found["pairs"]} == set(FAST)
    for name, ids in FAST.items():
        pair = pairs[ids]
        assert pair["policy"] == name
        assert pair["tells"], name
        assert pair["agrees"], name
        assert abs(pair["simulated"] - pair["measured"]) < 0.08, name
    assert found["all"]["direction"] == 1.0
    peaks = pairs[FAST["zero-bubble/ZB-1p"]]
    assert peaks["measured_memory"] == pytest.approx(32 / 30 - 1)
    assert peaks["simulated_memory"] == pytest.approx(32 / 30 - 1, abs=0.1)
    page = (out / "page.md").read_text()
    assert f"python -m desim validate {file} --effects" in page
    assert "| direction right | 100.0 % (10 of 10) | 100.0 % (10 of 10) | >= 95 % |" in page
    assert "None: every pair that tells a direction goes the right way." in page
    assert "as listed: direction right in 10 of 10 (100.0 %)" in said.out
    assert max(map(len, said.out.splitlines()[:-1])) <= 100


def test_the_published_pairs_differ_in_what_is_declared_alone() -> None:
    """Every policy finds pairs; their rows are equal in all else that describes the job."""
    declared = read_effects(TABLE)
    pairs = find_pairs(all_rows(read_measurements(TABLE).rows, declared), declared)
    assert {id(pair.policy) for pair in pairs} == {id(policy) for policy in declared.policies}
    assert len({(p.policy.name, p.name) for p in pairs}) == len(pairs)
    ours = ("id", "tier", "source", "notes", "repeat_of", "source_kind", "peak_memory_unit")
    for pair in pairs:
        reference, changed = pair.reference[0].cells, pair.changed[0].cells
        if not pair.policy.differ:
            continue
        different = {name for name in reference if reference[name] != changed[name]}
        different -= {*ours, *(name for name in different if name.startswith("measured_"))}
        assert different <= {*pair.policy.differ, *pair.policy.free}, pair.name
        assert different & set(pair.policy.differ), pair.name
    families = {pair.policy.family for pair in pairs if not pair.policy.beside}
    assert families == {"zero-bubble", "megascale", "korthikanti", "internevo", "llm-foundry",
        "torchtitan", "bigscience"}  # fmt: skip


def row(name: str, step_s: float, **cells: str) -> Measurement:
    job = {"id": name, "family": "f", "num_gpus": "8", "global_batch": "16", "seq_len": "1024"}
    job |= {"measured_step_time_s": str(step_s)} | cells
    return Measurement(1, name, "A", "f", job)


def declared(**policy: Any) -> EffectsFile:
    about = {"name": "p", "family": "f", "path": "kernels"} | policy
    return EffectsFile.model_validate({"noise": {"f": 0.02}, "policies": [about]})


def test_an_effect_by_hand() -> None:
    """Twice the batch in 1.8 times the time: 10 % less a token; simulated 8 % less."""
    file = declared(differ={"tp": ["1", "2"]}, free=["global_batch"])
    rows = [row("a", 1.0, tp="1"), row("b", 1.8, tp="2", global_batch="32")]
    (pair,) = find_pairs(rows, file)
    predictions = {"a": Prediction(2.0, 10.0, 0, 0), "b": Prediction(3.68, 12.0, 0, 0)}
    effect = effect_of(pair, 0.02, predictions)
    assert effect is not None
    assert (effect.measured, effect.simulated) == (pytest.approx(-0.1), pytest.approx(-0.08))
    assert effect.difference == pytest.approx(0.02)
    assert effect.tells
    assert effect.agrees
    assert effect.measured_memory is None
    assert effect_of(pair, 0.02, {"a": predictions["a"]}) is None, "b was not simulated"
    found = summary([effect])
    assert (found["pairs"], found["telling"], found["direction"]) == (1, 1, 1.0)
    assert found["difference"]["median"] == pytest.approx(0.02)


def test_noise_and_direction() -> None:
    """What was measured below the noise tells nothing; no effect at all has not its direction."""
    file = declared(differ={"tp": ["1", "2"]})
    for measured_s, simulated_s, tells, agrees in (
        (1.01, 0.9, False, False), (1.05, 0.9, True, False), (1.05, 1.0, True, False),
        (1.05, 1.3, True, True),
    ):  # fmt: skip
        (pair,) = find_pairs([row("a", 1.0, tp="1"), row("b", measured_s, tp="2")], file)
        known = {"a": Prediction(1.0, 1, 0, 0), "b": Prediction(simulated_s, 1, 0, 0)}
        effect = effect_of(pair, 0.02, known)
        assert effect is not None
        assert (effect.tells, effect.agrees) == (tells, agrees)


def test_equal_configurations_are_one_side_and_count_by_their_median() -> None:
    file = declared(differ={"tp": ["1", "2"]})
    rows = [row("a", 1.0, tp="1"), row("b", 3.0, tp="1"), row("c", 9.0, tp="1"),
            row("d", 1.5, tp="2")]  # fmt: skip
    (pair,) = find_pairs(rows, file)
    assert [one.id for one in pair.reference] == ["a", "b", "c"]
    effect = effect_of(pair, 0.0, {one.id: Prediction(1.0, 1, 0, 0) for one in rows})
    assert effect is not None
    assert effect.measured == pytest.approx(1.5 / 3.0 - 1)


def test_ascending_pairs_neighbours_and_equal_words_keep_dates_apart() -> None:
    file = declared(differ={"tp": "ascending"}, equal={"notes": [r"run \S+"]})
    rows = [row(f"{tp}-{day}", 1.0, tp=tp, notes=f"noisy; run {day}")
            for day in ("02-21", "02-25") for tp in ("8", "2", "4")]  # fmt: skip
    names = [pair.name for pair in find_pairs(rows, file)]
    assert names == ["2-02-21 -> 4-02-21", "4-02-21 -> 8-02-21",
                     "2-02-25 -> 4-02-25", "4-02-25 -> 8-02-25"]  # fmt: skip


def test_the_errors_of_the_model_are_by_fields_of_a_scenario() -> None:
    """Every key is the beginning of a path; a default stands for the others."""
    table = YAML(typ="safe").load(ERRORS.read_text())
    assert "default" in table
    wanted = {"policies.schedule", "policies.recompute", "policies.overlap.tensor", "kernels",
        "parallel.tensor", "parallel.context", "parallel.shard", "workload.micro_batch",
        "workload.precision"}  # fmt: skip
    assert set(table) >= wanted
    families = {policy.family for policy in read_effects(TABLE).policies}
    for key, entry in table.items():
        assert set(entry) == {"median_points", "p90_points", "pairs", "source"}
        assert 0 < entry["median_points"] <= entry["p90_points"]
        assert entry["pairs"] >= 1
        assert set(entry["source"]) <= families
        assert key == "default" or is_field(key), key


def test_every_policy_names_a_field_of_a_scenario() -> None:
    for policy in read_effects(TABLE).policies:
        assert is_field(policy.path), policy.name


def test_the_example_of_the_page_on_validate(tmp_path: Path, cli: Cli) -> None:
    page = (ROOT / "docs" / "validate.md").read_text()
    blocks = re.findall(r"```(csv|yaml)\n(.*?)```", page, re.DOTALL)
    (tmp_path / "runs.csv").write_text(blocks[0][1])
    (tmp_path / "effects.yaml").write_text(blocks[-1][1])
    said = cli("validate", tmp_path / "runs.csv", "--effects", tmp_path / "x.md", "--jobs", "1")
    assert (said.code, said.err) == (0, "")
    assert "direction right in 1 of 1 (100.0 %)" in said.out


def is_field(path: str) -> bool:
    """Whether a dotted path leads somewhere in a scenario."""
    model: Any = Scenario
    for part in path.split("."):
        if part not in model.model_fields:
            return False
        model = model.model_fields[part].annotation
    return True


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"policies": []}, "policies: list should have at least 1 item"),
        ({"noise": {}}, "noise must say how much zero-bubble vary"),
        ({"noise": {"zero-bubble": -1.0}}, "noise.zero-bubble: input should be greater than"),
        ({"rows": [{"id": "x", "like": "nobody", "cells": {}}]}, "there is no such row"),
        ({"rows": [{"id": "zb-t4-1.5B-1F1B-m24", "like": "zb-t4-1.5B-1F1B-m24", "cells": {}}]},
         "is the id of another row"),
        ({"policy": {"differ": {"pipelin": ["a", "b"]}}}, "no such column (got 'pipelin')"),
        ({"policy": {"differ": {"tp": ["a", "b"]}}}, "no two measured rows are a pair"),
        ({"policy": {"differ": {}}}, "must say by `differ` or `pairs` which rows are compared"),
        ({"policy": {"differ": {}, "pairs": [["a", "b"]]}}, "there is no such row (got 'a')"),
        ({"policy": {"equal": {"notes": ["("]}}}, "is no pattern"),
        ({"policy": {"differ": {"tp": "ascending", "pp": ["1", "2"]}}}, "allows no other column"),
        ({"readings": {"families": {"nobody": "x"}}}, "readings speak of no policy here: nobody"),
        ({"notes": 1}, "notes: extra inputs are not permitted"),
    ],
)  # fmt: skip
def test_declarations_that_are_refused(
    tmp_path: Path, cli: Cli, changes: dict[str, Any], words: str
) -> None:
    file = write_small(tmp_path)
    data = YAML(typ="safe").load((tmp_path / "effects.yaml").read_text())
    data["policies"] = [p for p in data["policies"] if p["name"] == "ZB-1p"]
    data["rows"] = []
    data["policies"][0] |= changes.pop("policy", {})
    YAML().dump(data | changes, tmp_path / "effects.yaml")
    said = cli("validate", file, "--effects", tmp_path / "page.md", "--assumptions", ASSUMED)
    assert (said.code, said.out) == (2, "")
    assert words in said.err
    assert not (tmp_path / "page.md").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tier", "A"], "--tier: cannot be had with --effects"),
        (["--report", "x.md"], "--report: cannot be had with --effects"),
        (["--only", "x"], "--only: cannot be had with --effects"),
        (["--jobs", "0"], "--jobs: must be at least 1"),
    ],
)
def test_options_that_are_refused(tmp_path: Path, cli: Cli, options: list[str], words: str) -> None:
    said = cli("validate", write_small(tmp_path), "--effects", tmp_path / "page.md", *options)
    assert (said.code, said.out) == (2, "")
    assert words in said.err


def test_a_table_without_declarations_is_refused(tmp_path: Path, cli: Cli) -> None:
    file = write_small(tmp_path)
    (tmp_path / "effects.yaml").unlink()
    said = cli("validate", file, "--effects", tmp_path / "page.md")
    assert said.code == 2
    assert "needs a file that says which rows show which policy; write" in said.err
