"""The pages say what is true: their examples run and print what the pages show."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path

import pytest

from tests.tools.snippets import agrees, examples, run

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("benchmarks/*.md")])


@pytest.mark.parametrize(
    ("name", "least"), [("README.md", 6), ("docs/how-it-works.md", 6), ("docs/compare.md", 4)]
)
def test_examples(tmp_path: Path, name: str, least: int) -> None:
    shutil.copytree(ROOT / "scenarios", tmp_path / "scenarios")
    page = (ROOT / name).read_text()
    assert len(examples(page)) >= least
    for example, printed in run(page, tmp_path):
        if example.printed is not None:
            assert agrees(printed, example.printed.text), (
                f"{name} shows\n{example.printed.text}but it prints\n{printed}"
                f"python -m tests.tools.snippets {name} puts it in"
            )


def test_the_two_commands_stand_in_the_readme() -> None:
    page = (ROOT / "README.md").read_text()
    for command in (
        "python -m pip install -e . && python -m desim scenarios/llama70b_2048.yaml",
        'python -m pip install -e ".[test]" && python -m pytest',
    ):
        assert f"```sh\n{command}\n```" in page


def test_the_scenario_of_the_readme(tmp_path: Path) -> None:
    import desim

    page = (ROOT / "README.md").read_text()
    written = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert written is not None
    file = tmp_path / "mine.yaml"
    file.write_text(written[1])
    assert desim.run(file).summary["fits"]


def test_the_table_of_the_page_on_validate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every row is scored, every word read, and the rule for the software changes the times."""
    from desim.cli import main

    page = (ROOT / "docs" / "validate.md").read_text()
    table, rule = (re.search(rf"```{kind}\n(.*?)```", page, re.DOTALL) for kind in ("csv", "yaml"))
    assert table is not None
    assert rule is not None
    (tmp_path / "runs.csv").write_text(table[1])
    out = []
    for added in ("", rule[1]):
        known = (ROOT / "validation" / "assumptions.yaml").read_text()
        assumed = tmp_path / f"assumed_{len(out)}.yaml"
        assumed.write_text(f"{known.rstrip()}\n{added}")
        options = ["--assumptions", str(assumed), "--jobs", "1"]
        assert main(["validate", str(tmp_path / "runs.csv"), *options]) == 0
        said = capsys.readouterr().out
        assert "every row is scored" in said
        assert "not read" not in said
        out.append(re.findall(r"simulated .*", said))
    assert sorted(out[0]) != sorted(out[1])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_pages_name_exist(page: Path) -> None:
    """In backticks: `desim/...`, `tests/...`, `docs/...`, `hardware/...` with a file ending."""
    pattern = r"`((?:desim|tests|docs|hardware|workloads|scenarios)/[\w./-]+\.\w+)`"
    for name in re.findall(pattern, page.read_text()):
        assert "NAME" in name or (ROOT / name).exists(), name


def test_the_scenario_reference_is_up_to_date() -> None:
    file = ROOT / "docs" / "generate_scenario_reference.py"
    spec = importlib.util.spec_from_file_location("generate_scenario_reference", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "scenario.md").read_text() == module.reference(), f"run python {file}"


def test_one_word_per_idea() -> None:
    words = (ROOT / "docs" / "words.md").read_text()
    for word in (
        "rank", "device", "node", "lane", "task", "span", "flow", "link", "group", "step",
        "micro-batch", "policy", "schedule",
    ):  # fmt: skip
        assert re.search(rf"^\| (.*, )?{word}(,.*)? \|", words, re.MULTILINE), word
