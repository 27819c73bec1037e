"""`validate`: what it prints and writes, and what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

import desim
from desim.validate.ignored import COLUMNS
from tests.cli.conftest import ROOT, Cli, files
from tests.validate.conftest import ASSUMED, IDS, real_rows, write

KEYS = {"rows", "scored", "mape", "median", "p90", "bias", "family_mape", "worst"}


def validate(cli: Cli, *arguments: str | Path) -> str:
    said = cli("validate", *arguments, "--jobs", "1")
    assert (said.code, said.err) == (0, ""), said.err
    return said.out


def test_json_and_table_agree(measured: Path, cli: Cli) -> None:
    validate(cli, measured, "--json", "out/errors.json", "--table", "rows.csv", "--quiet")
    found = json.loads(Path("out/errors.json").read_text())
    assert set(found["A"]) >= KEYS | {"by_family"}
    assert (found["A"]["rows"], found["A"]["scored"], found["unscored"]) == (4, 4, [])
    assert set(found["A"]["by_family"]) == {"llm-foundry", "zero-bubble"}
    assert all(set(family) >= KEYS for family in found["A"]["by_family"].values())
    assert (found["B"]["rows"], found["B"]["mape"]) == (0, None)
    with open("rows.csv", newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [row["id"] for row in table] == list(IDS)
    for row in table:
        error = float(row["simulated"]) / float(row["measured"]) - 1
        assert float(row["error"]) == pytest.approx(error, abs=2e-5)
    sizes = [abs(float(row["error"])) for row in table]
    assert found["A"]["mape"] == pytest.approx(sum(sizes) / 4, abs=1e-5)
    # One pipeline with 24 and 32 micro-batches.
    assert found["A"]["micro_batches"]["lines"] == 1
    # The rows of Zero Bubble print a peak as well.
    assert (found["peak_memory"]["rows"], found["peak_memory"]["scored"]) == (2, 2)


def test_text(measured: Path, cli: Cli) -> None:
    Path("readings.yaml").write_text("families: {zero-bubble: its vocabulary is a guess}\n")
    out = validate(cli, measured)
    assert max(len(line) for line in out.splitlines()) <= 100
    for words in ("tier A: step time", "by family", "by gpu", "worst rows", "every row is scored",
                  "its vocabulary is a guess", "4 rows in "):  # fmt: skip
        assert words in out, words


def test_scenarios_are_the_rows(measured: Path, cli: Cli) -> None:
    """Each file runs by itself, and gives the step time that was scored."""
    validate(cli, measured, "--write-scenarios", "out", "--table", "rows.csv")
    assert files(Path("out")) == sorted(f"{name}.yaml" for name in IDS)
    with open("rows.csv", newline="") as stream:
        for row in list(csv.DictReader(stream))[1:3]:
            file = Path("out") / f"{row['id']}.yaml"
            step_s = desim.run(file).summary["step_time_s"]
            assert f"{step_s:.6g}" == row["simulated"]
            assert row["measured"].rstrip("0") in file.read_text().splitlines()[2]


def test_equal_scenarios_are_played_once_and_repeats_share_a_median(
    measured: Path, cli: Cli
) -> None:
    first = real_rows()[0] | {"repeat_of": "x", "measured_step_time_s": "1.0"}
    again = first | {"id": "again", "measured_step_time_s": "3.0"}
    write(measured, [first, again])
    validate(cli, measured, "--table", "rows.csv", "--json", "out.json")
    with open("rows.csv", newline="") as stream:
        one, other = csv.DictReader(stream)
    assert one["measured"] == other["measured"] == "2"
    assert one["simulated"] == other["simulated"]
    noise = json.loads(Path("out.json").read_text())["noise"]["llm-foundry"]
    assert noise == {"repeated": 1, "mean": 1.0, "largest": 1.0}


def test_a_file_of_one_s_own(measured: Path, cli: Cli) -> None:
    """Without id, tier and family; tokens per second in place of a step time."""
    row = real_rows()[0]
    for name in ("id", "tier", "family", "measured_step_time_s", "repeat_of"):
        del row[name]
    Path("assumptions.yaml").write_text(ASSUMED.replace("family: llm-foundry", "family: own"))
    write(measured, [row])
    validate(cli, measured, "--json", "out.json")
    found = json.loads(Path("out.json").read_text())["A"]
    assert list(found["by_family"]) == ["own"]
    assert list(found["by_recompute"]) == ["full"], "the rule for the family `own` holds"
    assert found["worst"][0]["id"] == "line 2"


def test_rows_that_cannot_be_simulated_are_listed(measured: Path, cli: Cli) -> None:
    good = real_rows()[0]
    rows = [
        good,
        good | {"id": "no-layers", "num_layers": ""},
        good | {"id": "bad-mesh", "tp": "3"},
        good | {"id": "not-measured", "measured_step_time_s": "", "global_batch": ""},
        good | {"id": "no-number", "measured_step_time_s": "fast"},
    ]
    write(measured, rows)
    out = validate(cli, measured, "--json", "out.json")
    found = json.loads(Path("out.json").read_text())
    assert (found["A"]["rows"], found["A"]["scored"]) == (5, 1)
    reasons = {entry["id"]: entry["reason"] for entry in found["unscored"]}
    assert "num_layers" in reasons["no-layers"]
    assert "tp x cp x pp x dp must be num_gpus" in reasons["bad-mesh"]
    assert "nothing was measured" in reasons["not-measured"]
    assert "measured_step_time_s: must be a number above 0" in reasons["no-number"]
    assert "not scored: 4" in out


def test_what_nothing_reads_is_said(measured: Path, cli: Cli) -> None:
    """A word without a rule and a misspelt column would look like errors of the simulation."""
    rule = "  - when: {recompute: [full, 'select*']}\n    set: {policies.recompute: full}\n"
    Path("assumptions.yaml").write_text(ASSUMED + rule)
    row = real_rows()[0] | {"precision": "", "zero_fsdp": "", "pipeline_schedule": ""}
    row["kvheads"] = row.pop("kv_heads")
    row |= {"measured_peak_memory": "40", "peak_memory_unit": "gb"}
    words = ("full", "selective", "Full", "Full", "")
    write(measured, [row | {"id": f"r{n}", "recompute": word} for n, word in enumerate(words)])
    out = validate(cli, measured, "--json", "out.json")
    assert json.loads(Path("out.json").read_text())["not_read"] == [
        "column 'kvheads'; did you mean 'kv_heads'?",
        "recompute 'Full' of r2 and 1 more: it sets nothing; words that rules read: full, select*",
        "the peak of memory of r0 and 4 more: peak_memory_unit: must be one of GB, GiB, got 'gb'",
    ]
    assert "not read: recompute 'Full'" in out
    validate(cli, write(measured, real_rows()), "--quiet", "--json", "out.json",
        "--assumptions", ROOT / "validation" / "assumptions.yaml")  # fmt: skip
    assert json.loads(Path("out.json").read_text())["not_read"] == []


def test_the_columns_are_those_of_the_published_table() -> None:
    assert list(real_rows()[0]) == list(COLUMNS)


def test_processes_change_nothing(measured: Path, cli: Cli) -> None:
    for jobs in ("1", "2"):
        assert cli("validate", measured, "--jobs", jobs, "--json", f"{jobs}.json").code == 0
    assert Path("1.json").read_bytes() == Path("2.json").read_bytes()


def test_the_page(measured: Path, cli: Cli) -> None:
    validate(cli, measured, "--report", "docs/accuracy.md")
    page = Path("docs/accuracy.md").read_text()
    assert f"python -m desim validate {measured} --report docs/accuracy.md" in page
    assert "| zero-bubble | 2 | 2 |" in page
    assert "![Simulated against measured, tier A](accuracy_a.svg)" in page
    assert Path("docs/accuracy_a.svg").read_text().count('r="3"') == 4


MEMORY = """\
id,gpus,gpu,meas_peak_alloc_gib,meas_reserved_gib,mem_is_own_run
a,8,B200,40.0,41.0,yes
b,8,B200,,,no
c,8,B200,x,1.0,no
"""


def test_a_file_of_peaks_has_keys_of_its_own(measured: Path, cli: Cli) -> None:
    Path("peaks.csv").write_text(MEMORY)
    said = cli("validate", "peaks.csv", "--json", "out.json", "--jobs", "1")
    assert (said.code, "none of its 3 rows could be scored" in said.err) == (2, True)
    found = json.loads(Path("out.json").read_text())
    assert set(found) == {"allocated", "reserved", "unscored"}
    for key, rows in (("allocated", 1), ("reserved", 2)):
        assert found[key]["rows"] == rows
        assert found[key]["own_runs"]["rows"] == 1
    assert any("must be a number above 0" in entry["reason"] for entry in found["unscored"])


def test_a_file_of_which_no_row_can_be_scored_is_a_mistake(measured: Path, cli: Cli) -> None:
    """A column that is missing is missing in every row; the first one says which."""
    Path("bare.csv").write_text("id,gpu,measured_step_time_s\na,H100,1\nb,H100,2\n")
    said = cli("validate", "bare.csv", "--quiet")
    assert (said.code, said.out) == (2, "")
    words = "error: bare.csv: none of its 2 rows could be scored; a: num_gpus is neither stated nor"
    assert said.err.startswith(words)
    Path("bare.csv").write_text("gpu,measured_step_time_s\nH100,1\n")
    assert "its row could not be scored; line 2: " in cli("validate", "bare.csv").err


HEAD = "id,measured_step_time_s\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "mine.csv: is empty"),
        (b",,\n \n", "mine.csv: names no column"),
        (b"\x89PNG\x00", "mine.csv: is a binary file"),
        (HEAD.encode("utf-16"), "mine.csv: is UTF-16 text; save it as UTF-8"),
        (b"id;measured_step_time_s\na;1\n", "mine.csv:1: has semicolons between its columns"),
        (b"id\tmeasured_step_time_s\na\t1\n", "mine.csv:1: has tabs between its columns"),
        (b"id\n\xff\xfe\n", "mine.csv: is not UTF-8 text"),
        (HEAD.encode(), "mine.csv: holds no row"),
        (b"id,step_time_s\na,1\n", "'step_time_s' is close to 'measured_step_time_s'"),
        (b"id,id,measured_step_time_s\na,b,1\n", "a column stands twice (got 'id')"),
        (f"{HEAD}a,1\na,2\n".encode(), "mine.csv:3: id: an id stands twice (first in line 2)"),
        (f"{HEAD}a,1,2\n".encode(), "mine.csv:2: has 3 cells where the first line names 2"),
        (f'{HEAD}a,"1\n'.encode(), "is not valid CSV"),
        (b"tier,measured_step_time_s\nC,1\n", "tier: must be A or B (got 'C')"),
    ],
)
def test_files_that_are_refused(measured: Path, cli: Cli, content: bytes, words: str) -> None:
    measured.write_bytes(content)
    said = cli("validate", "mine.csv")
    assert (said.code, said.out) == (2, "")
    assert words in said.err
    assert said.err.endswith("nothing was run or written\n")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["none.csv"], "none.csv: does not exist"),
        (["."], ".: is a folder"),
        (["mine.csv", "--only", "nobody*"], "--only: no row's id matches"),
        (["mine.csv", "--tier", "B"], "--tier: no row is of this tier"),
        (["mine.csv", "--tier", "C"], "invalid choice: 'C'"),
        (["mine.csv", "--jobs", "0"], "--jobs: must be at least 1"),
        (["mine.csv", "--assumptions", "none.yaml"], "--assumptions: there is no such file"),
        (["mine.csv", "--assumptions", "mine.csv"], "must hold a mapping"),
        (["mine.csv", "--json", "."], "--json: is a folder"),
        (["mine.csv", "--table", "mine.csv/rows.csv"], "--table: must be a folder"),
        (["mine.csv", "--write-scenarios", "mine.csv"], "--write-scenarios: must be a folder"),
    ],
)
def test_options_that_are_refused(measured: Path, cli: Cli, options: list[str], words: str) -> None:
    said = cli("validate", *options)
    assert (said.code, said.out) == (2, "")
    assert words in said.err
    assert files(measured.parent) == ["assumptions.yaml", "mine.csv"]


def test_readings_that_cannot_be_read_are_refused(measured: Path, cli: Cli) -> None:
    Path("readings.yaml").write_text("rows: {a: 3}\nnotes: {}\n")
    said = cli("validate", measured)
    assert said.code == 2
    assert "rows.a: must be text" in said.err
    assert "there are rows, families, left_out" in said.err
