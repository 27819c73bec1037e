"""The studies that come with desim: each has its page and its figure, and its points run."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from desim.study.sweep.play import PointSource, play_point, prepare
from desim.study.sweep.points import number_of_points, overrides_of, points, require_paths
from desim.study.sweep.study_file import read_study

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "studies"
STUDIES = sorted((ROOT / "scenarios" / "studies").glob("*.yaml"))


def test_there_are_as_many_as_promised() -> None:
    assert len(STUDIES) >= 7


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: str(file.stem))
def test_every_study_has_its_page_with_command_figure_and_finding(file: Path) -> None:
    page = (PAGES / f"{file.stem}.md").read_text()
    assert f"python -m desim sweep scenarios/studies/{file.name}" in page
    assert f"]({file.stem}.svg)" in page
    assert (PAGES / f"{file.stem}.svg").read_text().startswith("<svg")
    for part in ("**Question.**", "**Finding.**", "**Against the model's error.**"):
        assert part in page
    assert f"({file.stem}.md)" in (PAGES / "README.md").read_text()


def test_links_between_the_pages_lead_somewhere() -> None:
    for page in PAGES.glob("*.md"):
        for target in re.findall(r"\]\(([\w./-]+)\)", page.read_text()):
            assert (PAGES / target).exists(), (page.name, target)


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: str(file.stem))
def test_every_study_is_small_and_its_first_point_runs(file: Path) -> None:
    study = read_study(file)
    require_paths(study)
    assert 2 <= number_of_points(study) <= 50
    first = next(points(study))
    done = play_point(PointSource(study.base, overrides_of(study, first)))
    assert not done.error
    assert done.scalars["step_time_s"] > 0
    assert sum(v for k, v in done.scalars.items() if k.startswith("time_share.")) == pytest.approx(
        1
    )


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: str(file.stem))
def test_points_of_a_study_are_different_scenarios(file: Path) -> None:
    study = read_study(file)
    every_fifth = itertools.islice(points(study), 0, None, 5)
    made = [prepare(PointSource(study.base, overrides_of(study, point))) for point in every_fifth]
    keys = [one.key for one in made if not one.error]
    assert len(keys) == len(set(keys)) > 1
