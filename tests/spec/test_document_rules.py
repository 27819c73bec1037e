"""Packed documents: what their lengths need is refused by name, what nothing reads is named."""

from __future__ import annotations

import pytest

from tests.spec.conftest import Load, Refuse

DOCUMENTS = "workload.documents"


@pytest.mark.parametrize(
    ("changes", "path", "rule", "hint"),
    [
        (["{sigma: 1.0}"], "mean_tokens", "lognormal has a mean length", "4096 is a whole"),
        (["{distribution: fixed}"], "mean_tokens", "fixed has a mean length", "4096"),
        (["{distribution: listed}"], "lengths", "draws from a list", "[256, 1024, 4096]"),
        (
            ["{distribution: listed, lengths: [64, 128], weights: [1, 2, 3]}"],
            "weights",
            "one number for each of 2 lengths, not 3",
            "",
        ),
        (["{mean_tokens: 1024, sigma: 0}"], "sigma", "greater than 0", ""),
        (["{mean_tokens: 0}"], "mean_tokens", "", ""),
        (["{distribution: listed, lengths: []}"], "lengths", "", ""),
        (["{mean_token: 5}"], "mean_token", "unknown key", "mean_tokens"),
        (
            ["{mean_tokens: 1}", "workload.sequence_length=1048576"],
            "mean_tokens",
            "1048576 x 1024 tokens / 1 = 1073741824",
            "at least 11",
        ),
    ],
)
def test_refused(refuse: Refuse, changes: list[str], path: str, rule: str, hint: str) -> None:
    first, *others = changes
    (mistake,) = refuse(f"{DOCUMENTS}={first}", *others)
    assert mistake.path == f"{DOCUMENTS}.{path}"
    assert rule in mistake.rule
    assert hint in mistake.hint


def test_chunks_of_a_sequence_are_refused_with_documents(refuse: Refuse) -> None:
    shared = ["parallel.context=4", "policies.context_balance=contiguous"]
    (mistake,) = refuse(f"{DOCUMENTS}={{mean_tokens: 1024}}", *shared)
    assert mistake.path == "policies.context_balance"
    assert mistake.hint == "set zigzag"


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        (["{mean_tokens: 9, distribution: listed, lengths: [9]}"], "the mean is that of lengths"),
        (["{mean_tokens: 9, lengths: [9]}"], "lengths: has no effect: distribution: lognormal"),
        (["{mean_tokens: 9, distribution: fixed, sigma: 2.0}"], "fixed has no sigma"),
        (["{mean_tokens: 4096, distribution: fixed}"], "sequence of 4096 tokens is in one doc"),
        (["{mean_tokens: 9, distribution: fixed, vary: micro_batch}"], "the same in every seq"),
        (["{mean_tokens: 1024, replicas: 2}"], "micro-batches do not vary"),
        (["{mean_tokens: 1024}", "kernels.attention=unfused"], "saves no time: unfused"),
        (["{mean_tokens: 1024, vary: micro_batch}"], "plays 8 of 8 data-parallel ranks"),
        (["{mean_tokens: 1024, vary: micro_batch, replicas: 2}"], "plays 2 of 8 data-parallel"),
        (["{mean_tokens: 1024}", "parallel.context=4"], "cut in 2 x 4 chunks"),
    ],
)
def test_named(load: Load, changes: list[str], note: str) -> None:
    first, *others = changes
    notes = load(f"{DOCUMENTS}={first}", *others).notes
    assert [text for text in notes if note in text], notes


@pytest.mark.parametrize(
    "documents",
    [
        "{mean_tokens: 1024, sigma: 0.5}",
        "{mean_tokens: 1024, distribution: fixed}",
        "{distribution: listed, lengths: [128, 4096], weights: [9, 1]}",
        "{mean_tokens: 1024, vary: micro_batch, replicas: 1}",
    ],
)
def test_taken_without_a_word(load: Load, documents: str) -> None:
    assert load(f"{DOCUMENTS}={documents}").notes == ()


def test_a_recommendation_model_has_no_attention(load: Load) -> None:
    text = """\
name: tables
workload: {model: dlrm_a, global_batch: 65536, micro_batch: 512}
cluster: {system: a100_40_zionex, devices: 128}
"""
    notes = load(f"{DOCUMENTS}={{mean_tokens: 1024}}", text=text).notes
    assert notes == (f"{DOCUMENTS}: has no effect: the model has no attention",)
