"""Study files: what they may say, and every mistake with its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from desim.errors import SpecError
from desim.study.axis import override
from desim.study.sweep.goal import read_constraint
from desim.study.sweep.points import number_of_points, overrides_of, points, require_paths
from desim.study.sweep.ranges import spread
from desim.study.sweep.study_file import read_study

BASE = {"name": "x"}


def study(**parts: Any) -> dict[str, Any]:
    return {"study": "s", "base": BASE, "axes": {"run.seed": [0, 1]}, **parts}


def values(**parts: Any) -> list[tuple[Any, ...]]:
    return [point.values for point in points(read_study(study(**parts)))]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({"from": 1, "to": 8, "factor": 2}, (1, 2, 4, 8)),
        ({"from": 1, "to": 7, "factor": 2}, (1, 2, 4)),
        ({"from": 8, "to": 1, "factor": 0.5}, (8, 4, 2, 1)),
        ({"from": 0, "to": 0.3, "step": 0.1}, (0, 0.1, 0.2, 0.3)),
        ({"from": 4, "to": 1, "step": -1}, (4, 3, 2, 1)),
        ({"from": "100 Gbps", "to": "400 Gbps", "factor": 2}, ("100 Gbps", "200 Gbps", "400 Gbps")),
        ({"from": "1 MB", "to": "2 MB", "step": "0.5 MB"}, ("1 MB", "1.5 MB", "2 MB")),
    ],
)
def test_ranges(written: dict[str, Any], expected: tuple[Any, ...]) -> None:
    found = spread(written)
    assert found == expected
    assert [type(v) for v in found] == [type(v) for v in expected]


@pytest.mark.parametrize(
    "written",
    [
        {"from": 1, "to": 8},
        {"from": 1, "to": 8, "step": 1, "factor": 2},
        {"from": 1, "to": 8, "step": 0},
        {"from": 1, "to": 8, "step": -1},
        {"from": 0, "to": 8, "factor": 2},
        {"from": 1, "to": 8, "factor": 1},
        {"from": "1 MB", "to": "8 GB", "factor": 2},
        {"from": "1 MB", "to": "8 MB", "step": 1},
        {"from": 1, "to": 1e9, "step": 1},
        {"from": True, "to": 8, "step": 1},
        {"from": 1, "to": 8, "by": 2},
    ],
)
def test_ranges_that_lead_nowhere(written: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="."):
        spread(written)


def test_points_are_the_product_and_the_last_axis_changes_fastest() -> None:
    axes = {"a": [1, 2], "b": ["x", "y"]}
    assert values(axes=axes) == [(1, "x"), (1, "y"), (2, "x"), (2, "y")]


def test_axes_of_a_zip_take_their_values_together() -> None:
    axes = {"a": [1, 2], "b": [5, 6], "c": [7, 8]}
    read = read_study(study(axes=axes, zip=[["c", "a"]]))
    assert [axis.path for axis in read.axes] == ["c", "a", "b"]
    assert [p.values for p in points(read)] == [(7, 1, 5), (7, 1, 6), (8, 2, 5), (8, 2, 6)]
    assert number_of_points(read) == 4
    assert values(axes=axes, zip=["c", "a"]) == [p.values for p in points(read)]


def test_conditions_keep_points_that_agree_with_one_of_them() -> None:
    axes = {"s": ["1f1b", "interleaved"], "v": [1, 2, 4]}
    when = [{"s": "1f1b", "v": 1}, {"s": "interleaved", "v": [2, 4]}]
    assert values(axes=axes, when=when) == [("1f1b", 1), ("interleaved", 2), ("interleaved", 4)]


def test_an_override_reads_back_equal() -> None:
    """Whatever a value is, the scenario gets that value: text, truth, number, list, mapping."""
    from desim.spec.nodes import plain
    from desim.spec.yaml_source import read_text

    for value in (
        "1e3",
        "yes",
        "a: b",
        'q"',
        True,
        None,
        1,
        1.5,
        1e-9,
        [1, [2]],
        {"a": {"b": "c"}},
    ):
        path, _, text = override("a.b", value).partition("=")
        assert path == "a.b"
        read = plain(read_text(text, "here"))
        assert read == value
        assert type(read) is type(value)


def test_settings_come_before_the_axes() -> None:
    read = read_study(study(set={"run": {"seed": 7}}))
    assert overrides_of(read, next(points(read))) == ('run={"seed": 7}', "run.seed=0")


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"axis": {}}, "axis: no such key in a study; did you mean 'axes'?"),
        ({"axes": {}}, "axes: has no axis: there is nothing to vary"),
        ({"axes": {"run.seed": []}}, "axes.run.seed: has no values: the sweep would be empty"),
        ({"axes": {"run.seed": 3}}, "axes.run.seed: must be a list or a range (got 3)"),
        ({"axes": {"run.seed": [1, 1]}}, "axes.run.seed: has a value twice (got 1)"),
        ({"axes": {"run.seed": {"from": 1, "to": 2}}}, "a range has the keys from, to and one of"),
        ({"zip": [["run.seed", "run.sed"]]}, "zip.0: is not an axis (got run.sed); did you mean"),
        ({"when": {"run.sed": 1}}, "when.0.run.sed: is not an axis; did you mean 'run.seed'?"),
        ({"when": {"run.seed": 9}}, "is not a value of the axis (got 9); values: 0, 1"),
        ({"objective": {"maximise": "mfus"}}, "objective: no scalar of the summary has this name"),
        ({"constraints": ["fit"]}, "constraints.0: no scalar of the summary has this name"),
        ({"objective": {"smallest": "mfu"}}, "objective: must name a scalar of the summary"),
        ({"constraints": ["fits maybe"]}, "constraints.0: must be a scalar of the summary, or one"),
        ({"constraints": ["mfu > a lot"]}, "'a lot' is neither a number nor a quantity"),
        ({"set": {"run.seed": 7}}, "set.run.seed: is an axis too, whose values count"),
        ({"study": 3}, "study: must be text (got 3)"),
        ({"base": 3}, "base: must be a path or a mapping (got 3)"),
    ],
)
def test_mistakes(parts: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_study(study(**parts))
    assert said in str(caught.value)


def test_unequal_axes_cannot_be_zipped() -> None:
    with pytest.raises(SpecError, match="a has 2, b has 3"):
        read_study(study(axes={"a": [1, 2], "b": [1, 2, 3]}, zip=[["a", "b"]]))


def test_all_mistakes_of_a_file_have_its_name_and_line(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    (tmp_path / "b.yaml").touch()
    file.write_text("study: s\nbase: b.yaml\naxes:\n  run.seed: []\nwhen: {a: 1}\nsort: 3\n")
    with pytest.raises(SpecError) as caught:
        read_study(file)
    assert [mistake.line for mistake in caught.value.mistakes] == [4, 5, 6]
    assert all(mistake.file.endswith("bad.yaml") for mistake in caught.value.mistakes)


def test_paths_that_no_scenario_has_name_the_nearest_one(study_file: Path) -> None:
    text = study_file.read_text().replace("parallel.tensor", "paralel.tensor")
    study_file.write_text(text.replace("policies.recompute:", "policies.recompte:"))
    with pytest.raises(SpecError) as caught:
        require_paths(read_study(study_file))
    said = str(caught.value)
    assert "study.yaml:5: axes.paralel.tensor: no such path in a scenario" in said
    assert "did you mean 'parallel.tensor'?" in said
    assert "set.policies.recompte: no such path in a scenario" in said
    assert "did you mean 'policies.recompute'?" in said


def test_a_base_that_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("study: s\nbase: nothing.yaml\naxes: {run.seed: [1]}\n")
    with pytest.raises(SpecError) as caught:
        read_study(file)
    assert "s.yaml:2: base: there is no such file (got 'nothing.yaml')" in str(caught.value)
    (tmp_path / "nothings.yaml").touch()
    with pytest.raises(SpecError, match=r"did you mean .*nothings\.yaml\?"):
        read_study(file)
    for name in ("x" * 5000, "a\\0/b"):
        file.write_text(f'study: s\nbase: "{name}"\naxes: {{run.seed: [1]}}\n')
        with pytest.raises(SpecError, match="2: base: there is no such file"):
            read_study(file)


def test_steps_that_lead_away_come_with_those_that_lead_there() -> None:
    axes = {"run.seed": {"from": 10, "to": 1, "step": 3}}
    with pytest.raises(SpecError, match=r"do not lead from 10 to 1; -3 does; as in .*step: 2}"):
        read_study({"study": "s", "base": {}, "axes": axes})
    axes["run.seed"]["step"] = -3
    assert read_study({"study": "s", "base": {}, "axes": axes}).axes[0].values == (10, 7, 4, 1)


def test_constraints() -> None:
    fits = read_constraint("fits")
    assert fits.met({"fits": True})
    assert not fits.met({"fits": False})
    assert not fits.met({})
    memory = read_constraint("peak_memory_bytes.max <= 70 GiB")
    assert memory.met({"peak_memory_bytes.max": 70 * 2**30})
    assert not memory.met({"peak_memory_bytes.max": 70 * 2**30 + 1})
    assert not memory.met({})
    assert read_constraint("mfu>0.4").met({"mfu": 0.41})
