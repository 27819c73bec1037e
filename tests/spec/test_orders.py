"""A user's own schedule: how it is written, and what is wrong with it in one line each."""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

import desim
from desim.spec.dump import dump_scenario
from desim.spec.load import load_scenario
from tests.cli.conftest import ROOT
from tests.jobs import BASE

#: 1F1B of two stages and three micro-batches.
FIRST, SECOND = "F0 F1 B0 F2 B1 B2", "F0 B0 F1 B1 F2 B2"


def scenario(schedule: Any, **changes: Any) -> dict[str, Any]:
    mapping = deepcopy(BASE)
    mapping["workload"]["global_batch"] = 12
    mapping["parallel"] = {"pipeline": 2, "zero": 0, **changes}
    mapping["policies"] = {"schedule": schedule}
    return mapping


def refuse(orders: list[str], **more: Any) -> str:
    with pytest.raises(desim.SpecError) as caught:
        desim.load(scenario({"orders": orders, **more}))
    return str(caught.value)


@pytest.mark.parametrize(
    "orders",
    [
        [FIRST, SECOND],
        [FIRST.split(), SECOND.split()],
        [FIRST.replace(" ", ", "), SECOND],
        [(s, w[0], int(w[1])) for s, o in enumerate((FIRST, SECOND)) for w in o.split()],
        [(s, w[0], int(w[1]), 0) for s, o in enumerate((FIRST, SECOND)) for w in o.split()],
    ],
)
def test_forms_of_the_same_orders(orders: list[Any]) -> None:
    read = desim.load(scenario({"orders": orders})).policies
    again = desim.load(scenario(orders)).policies
    assert read.schedule == again.schedule == "custom"
    for policies in (read, again):
        assert policies.custom is not None
        assert [" ".join(map(str, order)) for order in policies.custom.passes] == [FIRST, SECOND]


def test_a_file_beside_the_scenario(tmp_path: Path) -> None:
    """A path where a name may stand, also with `--set`; what is resolved needs no file."""
    (tmp_path / "mine.yaml").write_text(f"orders:\n  - {FIRST}\n  - {SECOND}\n")
    file = tmp_path / "job.yaml"
    text = dump_scenario(desim.load(scenario("gpipe")))
    file.write_text(text)
    by_option = load_scenario(file, [f"policies.schedule={tmp_path / 'mine.yaml'}"]).scenario
    file.write_text(text.replace("schedule: gpipe", "schedule: mine.yaml"))
    beside = load_scenario(file).scenario
    assert beside.policies == by_option.policies
    assert beside.policies.custom is not None
    resolved = tmp_path / "elsewhere" / "resolved.yaml"
    resolved.parent.mkdir()
    resolved.write_text(dump_scenario(beside))
    assert load_scenario(resolved).scenario == beside
    file.write_text(text.replace("schedule: gpipe", "schedule: yours.yaml"))
    with pytest.raises(
        desim.SpecError, match=r"policies.schedule: there is no such file"
    ) as caught:
        load_scenario(file)
    assert len(caught.value.mistakes) == 1


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("F0 F1 B0 F2 B1", SECOND, "stage 0 lacks B2 of 3 micro-batches"),
        (FIRST, SECOND + " B1", "stage 1 plays B1 more than once"),
        (FIRST, SECOND + " F3", "stage 1 plays F3, but micro-batches are numbered 0 to 2"),
        ("B0 F0 F1 F2 B1 B2", SECOND, "stage 0 plays B0 before F0"),
        ("F0 F1 W0 B0 F2 B1 B2 W1 W2", "F0 BW0 F1 BW1 F2 BW2", "stage 0 plays W0 before B0"),
        ("F0 F1 B0 F2 B1 B2 W0 W1", "F0 BW0 F1 BW1 F2 BW2", "lacks W2 of 3 micro-batches; a back"),
        (FIRST, "F1 F0 B0 B1 F2 B2", "stage 1 receives for F1 before F0, but stage 0 sends for F0"),
        ("F0 B0 F1 B1 F2 B2", "F0 F1 B0 B1 F2 B2", "deadlock: stage 0 at B0 waits for B0 of stage"),
        (FIRST, "F0 Q0", "'Q0' of stage 1 is not a pass"),
        (FIRST, "", "stage 1 has no passes"),
    ],
)
def test_what_is_wrong(first: str, second: str, words: str) -> None:
    assert words in refuse([first, second])


def test_the_circle_is_named() -> None:
    """Stage 0 wants a gradient before it sends what stage 1 wants before that gradient."""
    said = refuse(["F0 B0 F1 B1 F2 B2", "F0 F1 B0 B1 F2 B2"])
    assert "stage 0 at B0 waits for B0 of stage 1, stage 1 at F1 waits for F1 of stage 0" in said


@pytest.mark.parametrize("orders", [[], [3, 4], "F0 B0", [[0, "F"]], [(-1, "F", 0)]])
def test_what_is_no_list_of_orders(orders: Any) -> None:
    with pytest.raises(desim.SpecError, match=r"^policies\.schedule\.orders"):
        desim.load(scenario({"orders": orders}))


def test_mistakes_are_where_the_user_wrote_the_orders(tmp_path: Path) -> None:
    """As a mapping, as a list of orders alone, in a file, and under `custom`."""
    wrong = ["F0 B0", "F0 B0"]
    file = tmp_path / "own.yaml"
    file.write_text(f"placement: loop\norders: {wrong}\n")
    beside = scenario("custom")
    beside["policies"]["custom"] = {"orders": wrong}
    for mapping, path in (
        (scenario({"orders": wrong}), "policies.schedule.orders"),
        (scenario(wrong), "policies.schedule"),
        (scenario(str(file)), "policies.schedule.orders"),
        (beside, "policies.custom.orders"),
        (scenario({"orders": wrong, "placment": "v"}), "policies.schedule.placment"),
    ):
        with pytest.raises(desim.SpecError) as refused:
            desim.load(mapping)
        assert {mistake.path for mistake in refused.value.mistakes} == {path}
    assert refused.value.mistakes[0].hint == "did you mean 'policies.schedule.placement'?"


def test_stages_and_chunks() -> None:
    assert "one order for each of 2 pipeline stages, not 1" in refuse([FIRST])
    chunked = ["F0 F0.1 B0.1 B0", "F0 F0.1 B0.1 B0"]
    mapping = scenario({"orders": chunked}, virtual_stages=1)
    mapping["workload"]["global_batch"] = 4
    assert desim.load(mapping).parallel.virtual_stages == 2
    in_a_v = deepcopy(mapping)
    in_a_v["policies"]["schedule"]["placement"] = "v"
    assert desim.load(in_a_v).policies.custom.placement == "v"
    with pytest.raises(desim.SpecError, match="needs the orders of its stages"):
        desim.load(scenario("custom"))


def test_fields_of_other_schedules_are_notes() -> None:
    mapping = scenario("1f1b")
    mapping["policies"] |= {
        "custom": {"orders": [FIRST, SECOND]}, "schedule_memory": 1.5, "post_validation": False,
    }  # fmt: skip
    notes = load_scenario(mapping).notes
    for path in ("policies.custom", "policies.schedule_memory", "policies.post_validation"):
        assert any(n.startswith(f"{path}: has no effect under schedule 1f1b") for n in notes)
    folded = load_scenario(scenario("zb_v", virtual_stages=4))
    assert folded.scenario.parallel.virtual_stages == 2
    assert any("is taken as 2" in note for note in folded.notes)


@pytest.mark.parametrize(
    ("schedule", "batch", "stages", "words"),
    [
        ("dualpipe", 12, 2, "needs at least 2 x 2 = 4 micro-batches: 12 / (1 x 4) = 3"),
        ("dualpipe", 20, 2, "20 / (1 x 4) = 5 is odd"),
        ("dualpipe", 16, 1, "needs pipeline >= 2"),
        ("dualpipe_v", 12, 2, "needs at least 2 x 2 = 4 micro-batches"),
        ("breadth_first", 4, 2, "needs at least 2 micro-batches: 4 / (1 x 4) = 1"),
    ],
)
def test_too_few_micro_batches(schedule: str, batch: int, stages: int, words: str) -> None:
    mapping = scenario(schedule, pipeline=stages)
    mapping["workload"]["global_batch"] = batch
    with pytest.raises(desim.SpecError) as caught:
        desim.load(mapping)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("schedule", "batch", "words"),
    [
        ("zb_h1", 8, "2 micro-batches (8 / 4) leave bubbles that schedule zb_h1 fills from 4 on"),
        ("zb_2p", 24, "6 micro-batches (24 / 4) leave bubbles that schedule zb_2p fills from 7 on"),
        ("interleaved", 36, "9 micro-batches on 4 stages go in 2 round(s) of 5 and 4: PyTorch"),
        ("interleaved", 40, "10 micro-batches on 4 stages go in 2 round(s) of 5"),
    ],
)
def test_notes_on_the_number_of_micro_batches(schedule: str, batch: int, words: str) -> None:
    mapping = scenario(schedule, pipeline=4, virtual_stages=2)
    mapping["workload"]["global_batch"] = batch
    mapping["workload"]["model"]["layers"] = 8
    mapping["cluster"]["devices"] = 16
    assert any(f"workload.global_batch: {words}" in note for note in load_scenario(mapping).notes)
    mapping["workload"]["global_batch"] = 64
    assert not any("workload.global_batch" in note for note in load_scenario(mapping).notes)


def test_no_room_for_a_micro_batch() -> None:
    mapping = scenario("zb_auto")
    mapping["policies"]["schedule_memory"] = 0.25
    with pytest.raises(desim.SpecError, match=r"0.25 x 2 stages = 0.5.*0.25.*at least 0.5"):
        desim.load(mapping)


def test_the_least_memory_that_is_named_is_enough() -> None:
    mapping = scenario("zb_auto")
    mapping["parallel"]["pipeline"] = 3
    mapping["workload"]["model"]["layers"] = 6
    mapping["cluster"]["devices"] = 6
    mapping["policies"]["schedule_memory"] = 0.1
    with pytest.raises(desim.SpecError, match="at least") as refused:
        desim.load(mapping)
    (mistake,) = refused.value.mistakes
    mapping["policies"]["schedule_memory"] = float(mistake.hint.removeprefix("at least "))
    assert desim.load(mapping).policies.schedule_memory < 0.34


def test_the_example_of_the_page() -> None:
    page = (ROOT / "docs" / "schedules.md").read_text()
    (block,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    mapping = scenario("1f1b") | YAML(typ="safe").load(block)
    mapping["workload"]["global_batch"] = 8
    custom = desim.load(mapping).policies.custom
    assert custom is not None
    assert custom.split
    assert len(custom.passes) == 2
