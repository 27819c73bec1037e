"""Every kind of bad input: the place, the rule with its arithmetic and the nearest valid choice."""

from __future__ import annotations

from pathlib import Path

import pytest

from desim.errors import Mistake, SpecError
from desim.spec.load import load_scenario
from tests.spec.conftest import BASE, Load, Refuse


def only(mistakes: list[Mistake]) -> Mistake:
    assert len(mistakes) == 1, [str(m) for m in mistakes]
    return mistakes[0]


def file_mistake(path: Path) -> Mistake:
    with pytest.raises(SpecError) as caught:
        load_scenario(path)
    return only(list(caught.value.mistakes))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"# only a comment\n", "is empty"),
        (b"\x7fELF\x00\x01\x02", "is a binary file"),
        (b"name: caf\xe9\n", "is not UTF-8"),
        (b"name: [1, 2\n", "is not valid YAML"),
        (b"name: a\n\tworkload: b\n", "is not valid YAML"),
        (b"- a\n- b\n", "must hold a mapping"),
        (b"just text\n", "must hold a mapping"),
        (b"name: !!python/object:os.system x\n", "YAML tags are not used"),
        (b"a: 1\n---\nb: 2\n", "is not valid YAML"),
        (b"[" * 5000, "nested too deeply"),
        (b"x" * 10_000_000, "too large"),
    ],
    ids=[
        "empty", "comment", "binary", "latin1", "bracket", "tab", "list", "text", "tag",
        "two-documents", "deep", "10MB",
    ],
)  # fmt: skip
def test_a_file_that_is_no_scenario(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_bytes(content)
    with pytest.raises(SpecError) as caught:
        load_scenario(file)
    first = caught.value.mistakes[0]
    assert words in first.rule or any(words in m.rule for m in caught.value.mistakes)
    assert "bad.yaml" in first.file


def test_a_folder_and_a_missing_file(tmp_path: Path) -> None:
    assert file_mistake(tmp_path).rule == "is a folder"
    (tmp_path / "llama.yaml").write_text(BASE)
    missing = file_mistake(tmp_path / "lama.yaml")
    assert missing.rule == "does not exist"
    assert "llama.yaml" in missing.hint


def test_not_valid_yaml_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("name: a\nworkload: {model: x\ncluster: 3\n")
    assert file_mistake(file).line >= 2


def test_an_alias_bomb_is_refused(refuse: Refuse) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for i in range(1, 12):
        lines.append(f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 10) + "]")
    assert "once its aliases are expanded" in only(refuse(text="\n".join(lines))).rule
    assert "levels" in only(refuse(text="a: &a [*a]\n")).rule


def test_a_key_that_stands_twice(refuse: Refuse) -> None:
    mistake = only(refuse(text=BASE + "name: again\n"))
    assert mistake.rule == "key stands twice (first in line 1)"
    assert mistake.line == 11


@pytest.mark.parametrize(
    ("change", "path", "rule", "hint"),
    [
        ("parallel.tensor=eight", "parallel.tensor", "must be a whole number", ""),
        ("parallel.tensor=2.5", "parallel.tensor", "must be a whole number", ""),
        ("parallel.tensor=2.0", "parallel.tensor", "must be a whole number", "write 2"),
        ("parallel.tensor=true", "parallel.tensor", "must be a whole number", ""),
        ("parallel.tensor=0", "parallel.tensor", "must be greater than 0", ""),
        ("parallel.tensor=-2", "parallel.tensor", "must be greater than 0", ""),
        ("parallel.tensor=.nan", "parallel.tensor", "must be a finite number", ""),
        ("parallel.tensor=.inf", "parallel.tensor", "must be a finite number", ""),
        ("parallel.sequence=1", "parallel.sequence", "must be true or false", ""),
        ("parallel.data=some", "parallel.data", "must be a whole number or auto", ""),
        ("parallel.zero=4", "parallel.zero", "must be at most 3", ""),
        ("policies.schedule=1f2b", "policies.schedule", "must be one of", "did you mean '1f1b'?"),
        ("policies.bucket=40", "policies.bucket", "needs a unit", ""),
        ("policies.bucket=40 GB/s", "policies.bucket", "is a unit of a bandwidth", ""),
        ("policies.bucket=-1 MB", "policies.bucket", "must be greater than 0", ""),
        ("policies.bucket=0", "policies.bucket", "must be greater than 0", ""),
        ("kernels.launch=-1 us", "kernels.launch", "must be at least 0", ""),
        ("name=[a]", "name", "must be text", ""),
        ("policies=1f1b", "policies", "must be a mapping", ""),
        ("disturb={device: 1}", "disturb", "must be a list", ""),
        (
            "policies.resources.high_priority=tp",
            "policies.resources.high_priority",
            "must be a list",
            "write [tp]",
        ),
        (
            "workload.documents={distribution: listed, lengths: []}",
            "workload.documents.lengths",
            "must hold at least 1 value",
            "",
        ),
        ("disturb=[{speed: 1}]", "disturb.0", "device and compute; link and bandwidth", ""),
        ("disturb=[{device: 1, compute: 0}]", "disturb.0.compute", "greater than 0", ""),
        ("disturb=[{jitter: .nan}]", "disturb.0.jitter", "must be a finite number", ""),
        ("run.fold=perhaps", "run.fold", "must be auto or true or false", ""),
        ("cluster.system.fabric.nic=400", "cluster.system.fabric.nic", "needs a unit", ""),
        ("cluster.system.device.sms=0", "cluster.system.device.sms", "greater than 0", ""),
        (
            "workload.model.family=gpt",
            "workload.model.family",
            "must be one of transformer, dlrm",
            "",
        ),
    ],
)
def test_a_wrong_value(refuse: Refuse, change: str, path: str, rule: str, hint: str) -> None:
    mistake = only(refuse(change))
    assert mistake.path == path
    assert rule in mistake.rule
    assert hint in mistake.hint
    assert mistake.file.startswith("--set")
    assert "pydantic" not in str(mistake)


@pytest.mark.parametrize(
    ("written", "line", "path", "hint"),
    [
        ("paralel: {}", 11, "paralel", "'parallel'"),
        ("schedule: 1f1b", 11, "schedule", "'policies.schedule'"),
        ("policies:\n  overlap: {tensr: none}", 12, "policies.overlap.tensr", "overlap.tensor'"),
        ("zzz: 1", 11, "zzz", "keys here: name, workload"),
    ],
)
def test_an_unknown_key(refuse: Refuse, written: str, line: int, path: str, hint: str) -> None:
    mistake = only(refuse(text=f"{BASE}{written}\n"))
    assert (mistake.rule, mistake.line, mistake.path) == ("unknown key", line, path)
    assert mistake.file.endswith("small.yaml")
    assert hint in mistake.hint


def test_missing_keys(refuse: Refuse) -> None:
    mistakes = refuse(text="name: a\nworkload: {model: llama2_7b, sequence_length: 4096}\n")
    missing = {m.path for m in mistakes if m.rule == "key is missing"}
    assert missing == {"workload.global_batch", "workload.micro_batch", "cluster"}


def test_unknown_names_come_with_the_list(refuse: Refuse) -> None:
    model, system = refuse("workload.model=llama2_7", "cluster.system=dgx_h100")
    if model.path != "workload.model":
        model, system = system, model
    assert "did you mean 'llama2_7b'?" in model.hint
    assert "llama2_70b" in model.hint
    assert "did you mean 'dgx_h100_ndr400'?" in system.hint
    assert "gb200_nvl72" in system.hint


def test_all_mistakes_at_once_in_the_order_of_the_file(refuse: Refuse) -> None:
    text = """\
name: bad
workload:
  model: {base: llama2_7b, layers: 30}
  sequence_len: 4096
  sequence_length: 4096
  global_batch: 100
  micro_batch: 1
cluster:
  system: {base: dgx_h100_ndr400, fabric: {nic: 400}}
  devices: 64
parallel: {tensor: 2, pipeline: 4}
policies: {bucket: 3, schedule: 1f1b}
kernels: {attention: flash9}
disturb: [{device: 64, compute: 0.5}]
"""
    mistakes = refuse(text=text)
    assert [(m.line, m.path) for m in mistakes] == [
        (4, "workload.sequence_len"),
        (6, "workload.global_batch"),
        (9, "cluster.system.fabric.nic"),
        (11, "parallel.pipeline"),
        (12, "policies.bucket"),
        (13, "kernels.attention"),
        (14, "disturb.0.device"),
    ]


def test_a_refused_value_raises_no_second_mistake(refuse: Refuse) -> None:
    only(refuse("parallel.tensor=eight", "parallel.data=16"))
    only(refuse(text=BASE.replace("tensor: 2", "tenser: 2, data: 8")))


def test_yaml_1_2(load: Load) -> None:
    text = BASE.replace("name: small", "name: on")
    assert load(text=text).scenario.name == "on"
    assert load("disturb=[{jitter: 1e-2}]").scenario.disturb[0].jitter == 0.01
    assert load("name=2020-01-01").scenario.name == "2020-01-01"
