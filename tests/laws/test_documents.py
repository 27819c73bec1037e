"""Law: documents cut attention to the sum of their squares, and change nothing else of the work."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import desim
from desim.analyze.metrics import summarize
from desim.models.documents import draw_packings, expected_packing
from desim.models.op import Op
from desim.record import PS_PER_S
from desim.spec.documents import Documents
from tests.jobs import BASE, Played, job, play, same_bits
from tests.laws.test_experts import MODEL
from tests.laws.test_folding import check

TOKENS = BASE["workload"]["sequence_length"]
DRAWN = {"mean_tokens": 300, "vary": "micro_batch"}


def packed(documents: dict[str, Any] | None, **changes: Any) -> Any:
    return job(workload__documents=documents, **changes)


def ops(played: Played, number: int = 0) -> list[Op]:
    """Kernels of the measured step of one program, in issue order."""
    known, program = list(played.plan.context.tables.ops), played.plan.programs[number]
    numbers = program.op[program.cut_tasks[-2] : program.cut_tasks[-1]]
    return [known[i] for i in numbers[numbers >= 0]]


def attention_flops(played: Played) -> float:
    """FLOPs of attention in a step on all ranks."""
    ranks = np.bincount(played.plan.program_of, minlength=len(played.plan.programs))
    return sum(
        count * sum(op.flops for op in ops(played, number) if op.kind == "attention")
        for number, count in enumerate(ranks.tolist())
    )


@pytest.mark.parametrize("length", [TOKENS, 3 * TOKENS])
@pytest.mark.parametrize("vary", ["none", "micro_batch"])
def test_a_document_of_a_sequence_is_none(length: int, vary: str) -> None:
    whole = {"distribution": "fixed", "mean_tokens": length, "vary": vary}
    mesh = {"pipeline": 2, "tensor": 2}
    assert same_bits(play(packed(whole, parallel=mesh)), play(packed(None, parallel=mesh)))


@pytest.mark.parametrize("number", [2, 4, 16])
@pytest.mark.parametrize("attention", ["flash2", "unfused"])
def test_equal_documents_divide_attention_alone(number: int, attention: str) -> None:
    fixed = {"distribution": "fixed", "mean_tokens": TOKENS // number}
    one = play(packed(None, kernels={"attention": attention}))
    many = play(packed(fixed, kernels={"attention": attention}))
    pairs = list(zip(ops(one), ops(many), strict=True))
    masked = ("attention", "scores", "weighted_sum")
    inside = [(a, b) for a, b in pairs if a.name.startswith(masked) and a.kind != "softmax"]
    assert {a.flops / b.flops for a, b in inside if "dropout" not in a.name} == {number}
    assert all(a == b for a, b in pairs if (a, b) not in inside)
    assert all(a.read_bytes == b.read_bytes for a, b in pairs)
    assert many.step_ps < one.step_ps if attention == "flash2" else many.step_ps == one.step_ps
    for a, b in zip(one.plan.ledgers, many.plan.ledgers, strict=True):
        assert (a.by_owner == b.by_owner).all()


def test_equal_documents_are_shorter_sequences() -> None:
    """Kernels of n documents of s / n tokens are those of n sequences of s / n tokens."""
    fixed = {"distribution": "fixed", "mean_tokens": TOKENS // 4}
    long = play(packed(fixed))
    short = play(
        job(
            workload__sequence_length=TOKENS // 4,
            workload__micro_batch=4,
            workload__global_batch=32,
        )
    )
    kernels = [{op for op in ops(played) if op.kind == "attention"} for played in (long, short)]
    assert kernels[0] == kernels[1]


@pytest.mark.parametrize(
    "documents",
    [
        {"mean_tokens": 300},
        {"mean_tokens": 2000, "sigma": 1.5},
        {"mean_tokens": 40, "sigma": 0.3},
        {"distribution": "listed", "lengths": [100, 700, 5000], "weights": [5, 3, 1]},
        {"distribution": "listed", "lengths": [TOKENS]},
    ],
)
def test_draws_tend_to_the_closed_form(documents: dict[str, Any]) -> None:
    """Mean squares and numbers of 40,000 sequences, within four of their standard errors."""
    spec = Documents(**documents)
    expected = expected_packing(spec, TOKENS)
    assert expected is not None
    rows = draw_packings(spec, TOKENS, (200, 200), np.random.default_rng(7))
    for field in ("density", "documents", "whole"):
        found = np.array([getattr(packing, field) for row in rows for packing in row])
        error = found.std() / np.sqrt(found.size)
        assert abs(found.mean() - getattr(expected, field)) < 4 * error + 1e-12, field


def test_closed_forms_of_one_length() -> None:
    """Documents as long as a sequence, cut anywhere: u^2 + (1 - u)^2 is 2/3 on average. Half as
    long: the integral gives 1 / 2 - 1 / 12."""
    for share, squares in ((1, 2 / 3), (2, 1 / 2 - 1 / 12)):
        spec = Documents(distribution="listed", lengths=(TOKENS // share,))
        expected = expected_packing(spec, TOKENS)
        assert expected is not None
        assert expected.density == pytest.approx(squares)
        assert expected.documents == pytest.approx(share + 1)
    rest = expected_packing(Documents(distribution="fixed", mean_tokens=400), TOKENS)
    assert rest is not None
    assert rest.density == (400**2 + 400**2 + 224**2) / 1024**2
    assert rest.documents == 3


def test_expected_documents_are_in_every_kernel() -> None:
    """Fused attention does the share of the whole that the closed form says, on every rank."""
    spec = Documents(mean_tokens=300)
    expected = expected_packing(spec, TOKENS)
    assert expected is not None
    whole, part = play(packed(None)), play(packed({"mean_tokens": 300}))
    assert attention_flops(part) == pytest.approx(expected.density * attention_flops(whole))
    assert len(part.record.classes) == len(whole.record.classes)


def test_drawn_documents_change_attention_alone() -> None:
    """Every rank runs the kernels of the whole job in the same order, of attention a part."""
    mesh = {"pipeline": 2, "tensor": 2}
    whole = play(packed(None, workload__global_batch=32, parallel=mesh))
    drawn = play(packed(DRAWN, workload__global_batch=32, parallel=mesh))
    assert len(drawn.plan.programs) == 2 * len(whole.plan.programs)
    for number in range(4):
        pairs = list(zip(ops(whole, number % 2), ops(drawn, number), strict=True))
        assert all(a == b for a, b in pairs if a.kind != "attention")
        shares = {b.flops / a.flops for a, b in pairs if a.kind == "attention"}
        assert len(shares) >= 16
        assert max(shares) <= 1
    for number, ledger in enumerate(drawn.plan.ledgers):
        assert (ledger.by_owner == whole.plan.ledgers[number % 2].by_owner).all()
    share = summarize(drawn.plan, drawn.record)["attention_share"]
    assert attention_flops(drawn) == pytest.approx(share * attention_flops(whole))


JOBS: tuple[dict[str, Any], ...] = (
    {"parallel": {"pipeline": 2, "tensor": 2}},
    {"parallel": {"context": 2}, "policies": {"context": "ring"}},
    {"parallel": {"zero": 3}},
    {"parallel": {"pipeline": 2}, "policies": {"schedule": "zb_1p"}},
    {"parallel": {"pipeline": 2}, "policies": {"schedule": "dualpipe", "recompute": "full"}},
    {
        "parallel": {"pipeline": 2, "virtual_stages": 2},
        "policies": {"schedule": "interleaved"},
        "run": {"steps": 2},
    },
    {
        "workload__model": {**MODEL, "layers": 4},
        "parallel": {"pipeline": 2, "virtual_stages": 2, "expert": 2},
        "policies": {"schedule": "interleaved", "experts": {"passes": "joined"}},
    },
)


@pytest.mark.parametrize("changes", JOBS)
@pytest.mark.parametrize("replicas", [None, 2])
def test_ranks_with_documents_of_their_own_fold(
    changes: dict[str, Any], replicas: int | None
) -> None:
    """Ranks of a replica are folded, and replicas with the same draws."""
    documents = {**DRAWN, "replicas": replicas}
    folded = check(packed(documents, workload__global_batch=32, **changes))
    mesh = folded.plan.context.mesh
    number = min(mesh.sizes["dp"], replicas or mesh.sizes["dp"])
    assert len(folded.plan.programs) == number * mesh.sizes["pp"]
    of, replica = folded.plan.folding.ranks.of, mesh.coordinate("dp")
    for colour in range(folded.plan.folding.ranks.number):
        assert len(set((replica[of == colour] % number).tolist())) == 1


def test_the_seed_decides() -> None:
    def played(seed: int) -> Played:
        return play(packed(DRAWN, workload__global_batch=32, run__seed=seed))

    one = played(1)
    assert same_bits(one, played(1))
    assert not same_bits(one, played(2))
    expected = {"mean_tokens": 300}
    assert same_bits(play(packed(expected, run__seed=1)), play(packed(expected, run__seed=2)))


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("parallel", [{"zero": 1}, {"zero": 3}, {"pipeline": 2}])
def test_a_step_is_no_shorter_than_that_of_even_ranks(parallel: dict[str, Any], seed: int) -> None:
    """With kernels that take what their FLOPs say, the mean of all micro-batches bounds the step
    from below."""
    scenario = packed(DRAWN, workload__global_batch=32, parallel=parallel, run__seed=seed)

    def by_flops(op: Op) -> float:
        return op.flops / 1e12 if op.kind == "attention" else 1e-5

    drawn = play(scenario, by_flops, host=0.0)
    kernels = [op for n in range(len(drawn.plan.programs)) for op in ops(drawn, n)]
    mean = {
        variant: np.mean([o.flops for o in kernels if o.variant == variant and o.packing])
        for variant in ("forward", "backward")
    }

    def even(op: Op) -> float:
        return float(mean[op.variant]) / 1e12 if op.kind == "attention" else 1e-5

    assert drawn.step_ps > play(scenario, even, host=0.0).step_ps


def test_a_straggler_is_waited_for() -> None:
    """Without a pipeline the replica with most attention sets the step; the others wait for it."""
    scenario = packed(
        DRAWN, workload__global_batch=32, policies={"overlap": {"grad_reduce": "none"}}
    )
    drawn = play(scenario, lambda op: op.flops / 1e12 if op.kind == "attention" else 1e-6)
    work = [
        sum(op.flops for op in ops(drawn, number) if op.kind == "attention") for number in range(8)
    ]
    waits = [account["waiting"] / PS_PER_S for account in drawn.accounts()]
    of = [int(drawn.plan.program_of[c.representative]) for c in drawn.record.classes]
    behind = [(max(work) - work[number]) / 1e12 for number in of]
    assert waits == pytest.approx(behind, abs=2e-5)
    assert max(behind) > 1e-3


@pytest.mark.parametrize("exchange", ["all_gather", "ring", "all_to_all", "two_level"])
def test_context_ranks_have_equal_parts_of_every_document(exchange: str) -> None:
    one = play(packed({"mean_tokens": 300}, parallel={"context": 1}))
    shared = play(
        packed({"mean_tokens": 300}, parallel={"context": 4}, policies={"context": exchange})
    )
    assert attention_flops(shared) == pytest.approx(attention_flops(one))
    assert len(shared.plan.programs) == 1


def test_model_flops_count_what_is_inside_documents() -> None:
    """MFU x step time falls by the attention left out; HFU adds the recomputed part of the rest."""
    whole = play(packed(None, policies={"recompute": "full"}))
    part = play(packed(DRAWN, policies={"recompute": "full"}))
    one, other = (summarize(played.plan, played.record) for played in (whole, part))
    peak = one["model_tflop_per_s_per_device"] * 1e12 / one["mfu"] * 8
    flops = [s["mfu"] * s["step_time_s"] * peak for s in (one, other)]
    counted = 6 * 4 * 1024 * TOKENS**2 * 8
    assert flops[0] - flops[1] == pytest.approx((1 - other["attention_share"]) * counted)
    again = [(s["hfu"] - s["mfu"]) * s["step_time_s"] * peak for s in (one, other)]
    assert again[0] - again[1] == pytest.approx((1 - other["attention_share"]) * counted / 3)


def test_the_longest_of_a_micro_batch_is_the_mean_of_draws() -> None:
    """The longest of more sequences is longer; the expected one is that of drawn micro-batches."""
    spec = Documents(mean_tokens=300)
    longest = []
    for sequences in (1, 4, 16):
        expected = expected_packing(spec, TOKENS, sequences)
        assert expected is not None
        rows = draw_packings(spec, TOKENS, (20, 50), np.random.default_rng(3), sequences)
        found = np.mean([packing.longest for row in rows for packing in row])
        assert expected.longest == pytest.approx(found, rel=0.05)
        longest.append(expected.longest)
    assert longest == sorted(set(longest))


@pytest.mark.parametrize("vary", ["none", "micro_batch"])
def test_time_is_folded_where_micro_batches_repeat(vary: str) -> None:
    """Predictions leave equal micro-batches out, and play all that differ: the same picosecond."""
    documents = {"mean_tokens": 300, "vary": vary}
    scenario = packed(documents, workload__global_batch=96, parallel={"pipeline": 4})
    step_s = desim.run(scenario).summary["step_time_s"]
    assert desim.api.predict(scenario).step_time_s == step_s


def test_stragglers_are_no_bubble() -> None:
    """What a stage waits beyond the schedule of even micro-batches is waiting."""

    def share(vary: str) -> dict[str, float]:
        documents = {"mean_tokens": 300, "vary": vary}
        scenario = packed(documents, workload__global_batch=32, parallel={"pipeline": 4})
        found: dict[str, float] = desim.run(scenario).summary["time_share"]
        return found

    even, drawn = share("none"), share("micro_batch")
    assert even["waiting"] == 0
    assert drawn["waiting"] > 0
    assert drawn["bubble"] < 1.02 * even["bubble"]
    assert sum(drawn.values()) == pytest.approx(1)


def test_the_summary_says_what_is_counted() -> None:
    fixed = {"distribution": "fixed", "mean_tokens": TOKENS // 4}
    line = "documents: 25.0 % of a sequence's attention is inside one; MFU counts these"
    assert line in str(desim.run(packed(fixed))).splitlines()
    assert "documents:" not in str(desim.run(packed(None)))


def test_shorter_documents_are_never_slower() -> None:
    """As long as they fill the blocks of a kernel (128 tokens)."""
    lengths = [1024, 512, 256, 128]
    steps = [
        play(packed({"distribution": "fixed", "mean_tokens": n, "vary": "none"})).step_ps
        for n in lengths
    ]
    assert all(later <= earlier for earlier, later in pairwise(steps))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("context", ["", "all_gather", "ring", "all_to_all"])
def test_documents_far_longer_than_sequences_are_none(context: str, causal: bool) -> None:
    """Kernels take as long as without, and no longer with any that are shorter."""
    changes: dict[str, Any] = {"workload__model__causal": causal, "workload__sequence_length": 4096}
    if context:
        changes |= {"parallel": {"context": 4}, "policies__context": context}
    drawn, whole = (
        play(packed(documents, **changes)) for documents in ({"mean_tokens": 10**9}, None)
    )
    assert drawn.step_ps == pytest.approx(whole.step_ps, rel=1e-6)
    steps = [
        play(packed({"mean_tokens": n}, **changes)).step_ps
        for n in (10**9, 65536, 16384, 4096, 1024)
    ]
    assert all(later <= earlier for earlier, later in pairwise(steps))
