"""Every mistake of a user: exit code 2, a message that says what to do, nothing written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.conftest import TINY, Cli, Said, files, shell

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


def refused(said: Said, *words: str) -> None:
    assert said.code == 2, said
    assert said.out == ""
    assert "Traceback" not in said.err
    for word in words:
        assert word in said.err
    assert said.err.endswith("nothing was run or written\n")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "bad.yaml: is empty"),
        (b"\x89PNG\x0d\x0a\x1a\x0a\x00\x00", "bad.yaml: is a binary file"),
        (b"name: [1, 2\n", "bad.yaml:2: is not valid YAML"),
        (b"# big\n" * 1_700_000, "bad.yaml: is too large to be a scenario: 10200000 bytes"),
        (BOMB.encode(), "holds more than 50000 values once its aliases are expanded"),
        (b"- name\n", "must hold a mapping"),
        (TINY.encode() + b"name: again\n", "bad.yaml:12: key stands twice (first in line 1)"),
    ],
    ids=["empty", "binary", "not-yaml", "10MB", "alias-bomb", "list", "twice"],
)
@pytest.mark.parametrize("command", [[], ["check"]], ids=["run", "check"])
def test_files(tiny: Path, cli: Cli, content: bytes, words: str, command: list[str]) -> None:
    Path("bad.yaml").write_bytes(content)
    refused(cli(*command, "bad.yaml"), words)
    assert files(tiny.parent) == ["bad.yaml", "tiny.yaml"]


def test_a_folder_and_a_missing_file(tiny: Path, cli: Cli) -> None:
    refused(cli("."), "error: .: is a folder")
    refused(cli("tyni.yaml"), "does not exist", "did you mean tiny.yaml?")
    refused(cli("nothing"), "error: nothing: does not exist")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            "paralel.tensor=2",
            [
                "error: --set paralel.tensor=2: paralel.tensor: no such path",
                "did you mean 'parallel.tensor'?",
            ],
        ),
        ("parallel.tensor=two", ["parallel.tensor: must be a whole number (got 'two')"]),
        ("parallel.tensor=0", ["must be greater than 0"]),
        ("parallel.tensor=-8", ["must be greater than 0"]),
        ("parallel.tensor=.nan", ["must be a finite number"]),
        ("policies.bucket=40", ["needs a unit"]),
        ("policies.bucket=40 Gbps", ["is a unit of a bandwidth", "an amount of memory is needed"]),
        ("parallel.data=4", ["2 x 1 x 2 x 4 = 16, not 8", "set data: 2 (or auto)"]),
        ("parallel.tensor=3", ["8 / 6 leaves 2", "nearest: tensor: 2 or 4"]),
        ("workload.global_batch=9", ["9 / 2 leaves 1", "nearest: 8 or 10"]),
        ("parallel.pipeline=8", ["must divide the model's 4 layers", "nearest: pipeline: 4"]),
        ("workload.model=llama2", ["no workload has this name", "llama2_7b", "gpt3_175b"]),
        ("cluster.system=h100", ["no system has this name", "dgx_h100_ndr400"]),
        ("policies.schedule=interleaved", ["needs virtual_stages >= 2", "nearest: 2"]),
        ("cluster.devices=12", ["must fill whole nodes", "nearest: 8 or 16"]),
        ("disturb=[{device: 8, compute: 0.5}]", ["devices are numbered 0 to 7"]),
        ("disturb=[{link: cable, bandwidth: 0.5}]", ["no link of the cluster has this name"]),
        ("run.steps=1000000", ["desim plays at most", "nearest: 15625"]),
        ("cluster.devices=2097152", ["desim holds at most 1048576 devices"]),
        ("=1", ["must be PATH=VALUE"]),
        ("parallel.tensor", ["must be PATH=VALUE"]),
        ("parallel.tensor=", ["needs a value after '='"]),
        ("parallel.tensor=[", ["is not valid YAML"]),
        ("disturb=[{link: rail[0], bandwidth: 0.5}]", ["stands in quotes", 'link: "nic_out[3.0]"']),
    ],
)
def test_values(tiny: Path, cli: Cli, change: str, words: list[str]) -> None:
    refused(cli(tiny, "--set", change), "error: ", *words)
    assert files(tiny.parent) == ["tiny.yaml"]


def test_too_few_micro_batches(tiny: Path, cli: Cli) -> None:
    changes = ["policies.schedule=interleaved", "parallel.virtual_stages=2"]
    few = [*changes, "workload.global_batch=2"]
    arguments = [part for change in few for part in ("--set", change)]
    refused(cli(tiny, *arguments), "at least 2 micro-batches: 2 / (1 x 2) = 1", "nearest: 4")


def test_all_mistakes_at_once_with_file_and_line(tiny: Path) -> None:
    text = TINY.replace("layers: 4", "layers: 5").replace("global_batch", "globl_batch")
    tiny.write_text(text.replace("devices: 8", "devices: eight") + "policy: {}\n")
    said = shell("tiny.yaml", cwd=tiny.parent)
    refused(said, "tiny.yaml:6: workload.globl_batch: unknown key; did you mean", "4 mistakes")
    refused(said, "tiny.yaml:10: cluster.devices: must be a whole number (got 'eight')")
    refused(said, "tiny.yaml:12: policy: unknown key; did you mean 'policies'?")
    assert files(tiny.parent) == ["tiny.yaml"]


@pytest.mark.parametrize(
    ("out", "words"),
    [("", "must name a folder"), ("tiny.yaml", "is a file"), ("tiny.yaml/below", "is a file")],
)
def test_no_results_folder(tiny: Path, cli: Cli, out: str, words: str) -> None:
    refused(cli(tiny, "--out", out), "error: --out: ", words)


def test_a_folder_without_permission(tiny: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("locked").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != Path("locked"))
    refused(cli(tiny, "--out", "locked/below"), "no permission in locked")
    assert files(Path("locked")) == []


def test_a_file_that_cannot_be_replaced(tiny: Path, cli: Cli) -> None:
    """What only shows when writing is the user's to mend too."""
    Path("here/summary.json").mkdir(parents=True)
    said = cli(tiny, "--out", "here")
    assert said.code == 2
    assert said.err.startswith("error: the results cannot be written: ")
    assert said.err.endswith(": here/summary.json\n")
    assert files(Path("here")) == ["summary.json"]


@pytest.mark.parametrize(
    "arguments",
    [[], ["--no-such-option"], ["check"], ["list", "gpus"], ["tiny.yaml", "--set"], ["a", "b"]],
)
def test_the_command_itself(tiny: Path, cli: Cli, arguments: list[str]) -> None:
    said = cli(*arguments)
    assert said.code == 2
    assert said.err.startswith("usage: python -m desim")
    assert "Traceback" not in said.err
