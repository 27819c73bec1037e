"""Settings of variants: how they are written, combined and named, and what is refused."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

import desim
from desim.errors import SpecError
from desim.spec.load import load_scenario
from desim.spec.overrides import apply
from desim.spec.schema import all_paths
from desim.study.axis import Axis, override
from desim.study.compare.given import differences, given
from desim.study.compare.model_error import error_points, families, families_of
from desim.study.compare.variants import combine, parse_axis, setting_names, varied
from tests.jobs import BASE, job


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("policies.schedule=1f1b,zb_h1", ("1f1b", "zb_h1")),
        ("parallel.tensor=1, 2,4", (1, 2, 4)),
        ("parallel.sequence=true,false", (True, False)),
        ("parallel.shard=null,8", (None, 8)),
        ("disturb=[],[{device: 3, compute: 0.5}]", ([], [{"device": 3, "compute": 0.5}])),
        ("policies.collectives=auto,{all_reduce: ring}", ("auto", {"all_reduce": "ring"})),
        ("kernels.nccl_version='2.20',\"2.21\"", ("2.20", "2.21")),
        ("cluster.system.fabric.nic=200 Gbps,400 Gbps", ("200 Gbps", "400 Gbps")),
    ],
)
def test_values_are_yaml(text: str, values: tuple[Any, ...]) -> None:
    assert parse_axis(text) == Axis(text.partition("=")[0], values)


@pytest.mark.parametrize("text", ["", "=1,2", "a", "a=", "a=1,,2", "a=1,2,", "a=[1,2"])
def test_what_is_no_list_of_values_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="--vary"):
        parse_axis(text)


@pytest.mark.parametrize(
    "value",
    ["1f1b", "a: [b", "#", "null", "\u00e9\U0001f600", "", 7, 0.25, True, None, [1, {"a": []}]],
)
def test_a_value_survives_as_an_override(value: Any) -> None:
    """What is set is what was varied: text stays text, whatever it looks like."""
    from desim.spec.catalogue import Catalogue
    from desim.spec.nodes import Node, child, plain

    root = Node({})
    apply(root, override("name", value), Catalogue(()))
    written = child(root, "name")
    assert written is not None
    assert plain(written) == value


def test_combinations_count_as_a_product_and_pairs_as_one_list() -> None:
    axes = [Axis("a", (1, 2)), Axis("b", (3, 4, 5)), Axis("c", (6, 7))]
    rows = combine(axes, paired=False)
    assert [tuple(row.values()) for row in rows] == list(
        itertools.product(*(axis.values for axis in axes))
    )
    pairs = combine([axes[0], axes[2]], paired=True)
    assert pairs == [{"a": 1, "c": 6}, {"a": 2, "c": 7}]
    repeated = combine([Axis("a", (1, 2, 3)), Axis("b", (4, 4, 5))], paired=True)
    assert repeated == [{"a": 1, "b": 4}, {"a": 2, "b": 4}, {"a": 3, "b": 5}]
    assert len(combine([Axis("a", (1, True))], paired=False)) == 2


@pytest.mark.parametrize(
    ("axes", "paired", "said"),
    [
        ([Axis("a", (1, 2)), Axis("b", (1, 2, 3))], True, "a has 2, b has 3"),
        ([Axis("a", (1, 2))], True, "two --vary"),
        ([Axis("a", (1,))], False, "at least 2 variants"),
        ([Axis("a", (1, 1))], False, "a: the value stands twice"),
        ([Axis("a", ({"b": 1}, {"b": 1}))], False, "a: the value stands twice"),
        ([Axis("a", (1, 2, 1)), Axis("b", (3, 4, 3))], True, "a and b: the value stands twice"),
        ([Axis("a", (1, 2)), Axis("a", (3, 4))], False, "varied twice"),
        ([Axis("a", tuple(range(7))), Axis("b", tuple(range(5)))], False, "7 x 5 = 35"),
    ],
)
def test_what_cannot_be_combined_says_why(axes: list[Axis], paired: bool, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        combine(axes, paired=paired)


def test_names_are_short_and_distinct() -> None:
    assert setting_names([{"policies.schedule": "1f1b"}, {"policies.schedule": "gpipe"}]) == [
        "1f1b",
        "gpipe",
    ]
    assert setting_names([{"a.tensor": 1, "b.x": True}, {"a.tensor": 2, "b.x": False}]) == [
        "tensor=1, x=true",
        "tensor=2, x=false",
    ]
    both = {"parallel.tensor": 4, "policies.overlap.tensor": "none"}
    assert setting_names([both]) == ["parallel.tensor=4, overlap.tensor=none"]
    long = [{"a": ["x" * 40, number]} for number in range(3)]
    assert len(set(setting_names(long))) == 3


def test_a_variant_is_the_scenario_with_its_values() -> None:
    settings = combine([parse_axis("policies.schedule=1f1b,gpipe")], paired=False)
    found = varied(BASE, ["parallel.pipeline=2"], settings)
    for variant, schedule in zip(found, ("1f1b", "gpipe"), strict=True):
        alone = load_scenario(BASE, ["parallel.pipeline=2", f"policies.schedule={schedule}"])
        assert variant.scenario == alone.scenario
        assert variant.setting == {"policies.schedule": schedule}


def test_mistakes_of_all_variants_stand_once_and_those_of_one_have_its_name() -> None:
    settings = combine([parse_axis("workload.micro_batch=1,3,5")], paired=False)
    with pytest.raises(SpecError) as caught:
        varied(BASE, ["parallel.tensr=2"], settings)
    said = [str(mistake) for mistake in caught.value.mistakes]
    assert sum("parallel.tensr" in text for text in said) == 1
    assert [text.partition(":")[0] for text in said if "variant" in text] == [
        "variant micro_batch=3",
        "variant micro_batch=5",
    ]


def test_an_unknown_path_names_the_nearest() -> None:
    settings = combine([parse_axis("policies.schedul=1f1b,gpipe")], paired=False)
    with pytest.raises(SpecError) as caught:
        varied(BASE, [], settings)
    (mistake,) = caught.value.mistakes
    assert mistake.hint == "did you mean 'policies.schedule'?"


def test_values_that_mean_the_same_are_compared_and_noted() -> None:
    settings = combine([parse_axis("parallel.data=auto,8")], paired=False)
    auto, eight = varied(BASE, [], settings)
    assert auto.scenario == eight.scenario
    assert auto.notes == ()
    assert eight.notes == ("comes to the same scenario as data=auto",)


def test_settings_of_given_scenarios_are_where_they_differ(tmp_path: Path) -> None:
    one = job(parallel__pipeline=2)
    changes = {"workload__micro_batch": 2, "policies__schedule": "gpipe", "name": "other"}
    other = job(parallel__pipeline=2, **changes)
    assert [variant.setting for variant in given([one, other])] == [
        {"workload.micro_batch": 1, "policies.schedule": "1f1b"},
        {"workload.micro_batch": 2, "policies.schedule": "gpipe"},
    ]
    with pytest.raises(SpecError, match="is the same scenario as"):
        given([one, one.model_copy(update={"name": "another name"})])


def test_another_system_is_its_name_and_not_all_its_numbers() -> None:
    a100 = {**BASE, "cluster": {"system": "dgx_a100_80_hdr200", "devices": 8}}
    first, second = differences([desim.load(BASE), desim.load(a100)])
    assert list(first) == list(second) == ["cluster.system"]
    assert first != second


def test_every_family_of_the_error_table_is_a_path_with_a_source() -> None:
    known = families()
    valid = set(all_paths())
    assert [family.path for family in known].count("") == 1
    assert len({family.path for family in known}) == len(known)
    for family in known:
        assert family.path == "" or family.path in valid, family.path
        assert family.points > 0
        assert family.source


def test_the_longest_path_counts_and_squares_add() -> None:
    from desim.study.compare.model_error import Family

    known = [Family("", 5, "x"), Family("policies", 3, "y"), Family("policies.schedule", 4, "z")]
    assert families_of(["policies.schedule"], known) == {known[2]: ["policies.schedule"]}
    both = ["policies.recompute", "policies.overlap.tensor"]
    assert families_of(both, known) == {known[1]: both}
    assert families_of(["policies.schedule_x"], known) == {known[1]: ["policies.schedule_x"]}
    assert families_of(["parallel.tensor"], known) == {known[0]: ["parallel.tensor"]}
    assert error_points(families_of(["policies.schedule", *both], known)) == pytest.approx(5.0)
    assert error_points([]) == 0
