"""Rules across fields: arithmetic in the message, the nearest valid choice beside it."""

from __future__ import annotations

import pytest

from tests.spec.conftest import Load, Refuse

MOE = "workload.model.moe={experts: 8, top_k: 2, ffn: 1024}"


@pytest.mark.parametrize(
    ("changes", "path", "rule", "hint"),
    [
        (["parallel.data=7"], "parallel.data", "2 x 1 x 4 x 7 = 56, not 64", "set data: 8"),
        (
            ["parallel.data=7", "parallel.pipeline=5"],
            "parallel.data",
            "2 x 1 x 5 x 7 = 70, not 64",
            "pipeline: 4 or 8",
        ),
        (["parallel.pipeline=3"], "parallel", "64 / 6 leaves 4", "pipeline: 2 or 4"),
        (
            ["parallel.context=4", "policies.context=all_to_all", "workload.model.kv_heads=4"],
            "policies.context",
            "2 / 4 leaves 2",
            "context: 2, or policies.context: ring",
        ),
        (
            ["policies.overlap.tensor=chunked", "parallel.sequence=false"],
            "policies.overlap.tensor",
            "without sequence parallelism there are none",
            "parallel.sequence: true",
        ),
        (
            ["parallel.context=4", "policies.context=two_level", "policies.context_inside=3"],
            "policies.context_inside",
            "4 / 3 leaves 1",
            "nearest: 2 or 4",
        ),
        (
            [
                "parallel.context=4",
                "policies.context=two_level",
                "policies.context_inside=4",
                "workload.model.kv_heads=4",
            ],
            "policies.context_inside",
            "the 2 kv_heads of a tensor rank: 2 / 4 leaves 2",
            "nearest: 2",
        ),
        (
            [
                "workload.model.moe={experts: 8, top_k: 6, ffn: 1024}",
                "parallel={tensor: 2, pipeline: 1, expert: 8, expert_tensor: 2}",
                "policies.experts={dispatch: node_first, max_nodes: 1}",
            ],
            "policies.experts.max_nodes",
            "1 nodes x 8 / 2 = 4",
            "nearest: 2",
        ),
        (
            [MOE, "parallel.expert=4", "policies.experts.load=[1, 2]"],
            "policies.experts.load",
            "4 expert ranks, not 2",
            "",
        ),
        (
            [MOE, "parallel.expert=4", "policies.experts.chunks=4096"],
            "policies.experts.chunks",
            "2048 tokens x 2 x 4 ranks / 8 experts = 2048",
            "at most 2048",
        ),
        (
            ["policies.overlap={tensor: chunked, tensor_chunks: 1}"],
            "policies.overlap.tensor_chunks",
            "1/2 of them, not 1/1",
            "nearest: 2",
        ),
        (
            ["policies.overlap={tensor: chunked, tensor_chunks: 6}"],
            "policies.overlap.tensor_chunks",
            "4096 / 6 leaves 4",
            "nearest: 4 or 8",
        ),
        (["parallel.shard=3"], "parallel.shard", "8 x 1 = 8, 8 / 3 leaves 2", "nearest: 2 or 4"),
        (["cluster.devices=60"], "cluster.devices", "60 / 8 leaves 4", "56 or 64"),
        (
            ["workload.global_batch=60"],
            "workload.global_batch",
            "1 x 8 = 8, 60 / 8 leaves 4",
            "56 or 64",
        ),
        (["workload.global_batch=4"], "workload.global_batch", "4 / 8 leaves 4", "nearest: 8"),
        (
            ["workload.model.layers=30"],
            "parallel.pipeline",
            "30 / 4 leaves 2",
            "pipeline: 3 or 5, or give stage_layers: 4 numbers that add up to 30",
        ),
        (
            ["parallel.stage_layers=[8, 8, 8]"],
            "parallel.stage_layers",
            "one number for each of 4 stages, not 3",
            "",
        ),
        (
            ["parallel.stage_layers=[8, 8, 8, 7]"],
            "parallel.stage_layers",
            "32 layers, not 31",
            "add 1",
        ),
        (
            ["workload.model.kv_heads=5"],
            "workload.model.kv_heads",
            "32 / 5 leaves 2",
            "nearest: 4 or 8",
        ),
        (["workload.model.ffn=11009"], "parallel.tensor", "11009 / 2 leaves 1", ""),
        (
            ["workload.sequence_length=4097"],
            "workload.sequence_length",
            "context x tensor = 2 (sequence parallel): 4097 / 2 leaves 1",
            "4096 or 4098",
        ),
        (
            ["parallel.context=2", "workload.sequence_length=4098"],
            "workload.sequence_length",
            "2 x context = 4: 4098 / 4 leaves 2",
            "4096 or 4100",
        ),
        (["workload.sequence_length=1"], "workload.sequence_length", "must be given", "4096"),
        (["parallel.expert=2"], "parallel.expert", "has no experts", "expert: 1"),
        ([MOE, "parallel.expert=3"], "parallel.expert", "8 / 3 leaves 2", "nearest: 2 or 4"),
        (
            [MOE, "parallel.expert=8", "parallel.expert_tensor=4"],
            "parallel.expert",
            "8 x 4 = 32, 2 x 1 x 8 = 16",
            "nearest: 4",
        ),
        (
            [MOE, "parallel.expert=4", "parallel.zero=3", "parallel.pipeline=1"],
            "parallel.zero",
            "experts with groups of their own",
            "expert: 1",
        ),
        ([MOE, "parallel.sequence=false"], "parallel.sequence", "its own tokens", "tensor: 1"),
        ([MOE, "kernels.cuda_graphs=true"], "kernels.cuda_graphs", "dropless", "capacity_factor"),
        (
            [
                "workload.model.mla={kv_rank: 512, nope_head_dim: 128, rope_head_dim: 64, "
                "value_head_dim: 128}"
            ],
            "workload.model.head_dim",
            "nope_head_dim + rope_head_dim = 192",
            "",
        ),
        (["parallel.order=tp-pp"], "parallel.order", "must name each of", "tp-cp-ep-dp-pp"),
        (["parallel.zero=3"], "parallel.zero", "parameters gathered", "zero: 1, or pipeline: 1"),
        (["parallel.zero=2"], "parallel.zero", "(8 times a step instead of once)", "zero: 1"),
        (
            ["workload.precision.compute=fp4"],
            "workload.precision.compute",
            "H100-SXM-80GB does not compute in this format",
            "bf16, fp8",
        ),
        (
            ["cluster.system=dgx_a100_80_hdr200", "kernels.attention=flash3"],
            "kernels.attention",
            "does not exist on A100-SXM-80GB",
            "flash1, triton, flash2, unfused",
        ),
        (
            ["cluster.system=dgx_a100_80_hdr200", "policies.collectives.all_reduce=nvls"],
            "policies.collectives.all_reduce",
            "no in-switch reduction",
            "ring",
        ),
        (
            ["cluster.system=a100_40_zionex", "cluster.devices=256"],
            "cluster.devices",
            "has 128 devices",
            "at most 128",
        ),
        (
            ["disturb=[{device: 64, compute: 0.5}]"],
            "disturb.0.device",
            "numbered 0 to 63",
            "63",
        ),
        (["cluster.system.nics_per_node=3"], "cluster.system.nics_per_node", "8", "nearest: 8"),
        (["cluster.system.nvlink_domain=3"], "cluster.system.nvlink_domain", "8", "nearest: 8"),
    ],
)
def test_a_broken_rule(refuse: Refuse, changes: list[str], path: str, rule: str, hint: str) -> None:
    mistakes = [m for m in refuse(*changes) if m.path == path]
    assert any(rule in m.rule and hint in m.hint for m in mistakes), [str(m) for m in mistakes]


def test_interleaving(refuse: Refuse, load: Load) -> None:
    base = ["policies.schedule=interleaved", "parallel.virtual_stages=2"]
    load(*base)
    load(*base, "workload.global_batch=48")  # 6 micro-batches on 4 stages
    few = refuse(*base, "workload.global_batch=24")
    assert [m.path for m in few] == ["workload.global_batch"]
    assert "needs at least 4 micro-batches: 24 / (1 x 8) = 3" in few[0].rule
    assert few[0].hint == "nearest: 32, or set schedule: 1f1b"
    single = refuse("policies.schedule=interleaved")
    assert [m.path for m in single] == ["parallel.virtual_stages"]
    flat = refuse(*base, "parallel.pipeline=1")
    assert [m.path for m in flat] == ["parallel.pipeline"]
    cut = refuse("policies.schedule=interleaved", "parallel.virtual_stages=3")
    assert "32 / 4 x 3 = 12 leaves 8" in cut[0].rule


def test_kv_heads_may_be_fewer_than_tensor_ranks(load: Load, refuse: Refuse) -> None:
    load("workload.model.kv_heads=4", "parallel.tensor=8", "parallel.pipeline=1")
    mistakes = refuse(
        "workload.model.heads=48", "workload.model.kv_heads=6",
        "parallel.tensor=4", "workload.model.ffn=12288",
    )  # fmt: skip
    assert "kv_heads (6)" in mistakes[0].rule


def test_cuts_that_do_not_divide_the_model_are_refused_together(refuse: Refuse) -> None:
    """Heads, columns of the MLP, keys and the sequence, each with its arithmetic."""
    mistakes = refuse(
        "parallel.tensor=3", "parallel.context=4", "parallel.pipeline=1", "cluster.devices=48",
        "workload.global_batch=4", "workload.model.ffn=11000", "workload.sequence_length=510",
    )  # fmt: skip
    assert [m.path for m in mistakes] == [*["parallel.tensor"] * 3, "workload.sequence_length"]
    whats = ("heads: 32 / 3 leaves 2", "ffn: 11000 / 3 leaves 2", "kv_heads (32)", "510 / 8")
    assert all(what in m.rule for what, m in zip(whats, mistakes, strict=True))


def test_notes_are_not_mistakes(load: Load) -> None:
    wide = load("parallel.tensor=16", "parallel.pipeline=1")
    assert any("reaches beyond the NVLink domain of 8" in note for note in wide.notes)
    virtual = load("parallel.virtual_stages=2")
    assert any("virtual_stages has no effect" in note for note in virtual.notes)
    assert virtual.scenario.parallel.virtual_stages == 1
    many = load("policies={recompute: full, recompute_layers: 99}")
    assert any("is taken as 8: no stage has more layers" in note for note in many.notes), many.notes
    assert load("policies={recompute: full, recompute_layers: 1}").notes == ()
    ahead = "policies={recompute: full, recompute_in: bubble, recompute_ahead: %s}"
    assert load(ahead % "8").notes == ()
    for choice, most in (("9", 8), ("3, recompute_layers: 2", 2)):
        (note,) = load(ahead % choice).notes
        assert note == f"policies.recompute_ahead: is taken as {most}: no chunk recomputes more"
    assert load().notes == ()


def test_sharded_tensor_parallel_is_allowed(load: Load) -> None:
    load("parallel.pipeline=1", "parallel.zero=3")


def test_recommendation_models_are_data_parallel(refuse: Refuse) -> None:
    changes = ["workload.model=dlrm_a", "workload.precision.compute=tf32", "parallel.zero=3"]
    paths = {m.path for m in refuse(*changes)}
    assert {"parallel.tensor", "parallel.pipeline", "parallel.zero"} <= paths
    assert "workload.sequence_length" in paths


def test_data_auto_is_replaced_by_its_number(load: Load) -> None:
    assert load().scenario.parallel.data == 8
    assert load().scenario.run.fold == "auto"


def test_a_job_that_fills_its_last_domain_in_part_is_told_of_segments(load: Load) -> None:
    """An NVL72 rack holds 18 trays; 16 of each divide 128 devices, 18 do not."""
    gb200 = ["cluster.system=gb200_nvl72", "parallel.tensor=4"]
    (note,) = load(*gb200, "cluster.devices=128").notes
    assert "128 = 1 x 72 + 56 fills the last NVLink domain in part" in note
    assert "nearest: 72 or 144, or cluster.system.nvlink_domain: 64 if" in note
    assert load(*gb200, "cluster.devices=64").notes == ()
    whole = [*gb200, "cluster.devices=144", "workload.global_batch=72"]
    assert load(*whole).notes == ()
    segments = "cluster.system={base: gb200_nvl72, nvlink_domain: 64}"
    assert load(segments, "parallel.tensor=4", "cluster.devices=128").notes == ()


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        (["policies.overlap.tensor_chunks=8"], "tensor_chunks: has no effect under tensor: mega"),
        (["policies.overlap.tensor_exchange=direct"], "tensor_exchange: has no effect under"),
        (["policies.context_inside=2"], "context_inside: has no effect under context: all_gather"),
        (["policies.context_balance=contiguous"], "no effect: parallel.context is 1"),
        (
            ["parallel.context=2", "policies={context: all_to_all, context_balance: contiguous}"],
            "every rank has all tokens of its heads",
        ),
        (
            ["parallel.context=2", "policies={context: two_level, context_inside: 1}"],
            "1 of 2 ranks exchange heads, as ring does",
        ),
        (["policies.experts.chunks=2"], "experts.chunks: has no effect"),
        ([MOE, "policies.experts.spread=0.5"], "parallel.expert is 1, every rank has all experts"),
        (
            [MOE, "parallel.expert=2", "policies.experts.max_nodes=2"],
            "dispatch: node_first sends one to a node",
        ),
        (
            [MOE, "parallel.expert=2", "policies.experts.dispatch=node_first"],
            "expert groups stand in one NVLink domain",
        ),
        (
            [MOE, "parallel.expert=2", "policies.experts.shared=beside"],
            "the model has no shared expert",
        ),
        (
            [
                "workload.model.moe={experts: 8, top_k: 2, ffn: 1024, imbalance: 1.5}",
                "parallel.expert=2",
                "policies.experts.load=[1, 2]",
            ],
            "moe.imbalance: has no effect: policies.experts says",
        ),
        (
            [
                MOE,
                "parallel.expert=2",
                "policies.experts.chunks=2",
                "policies.recompute=selective",
                "policies.recompute_modules=[expert_activation]",
            ],
            "has no effect on experts in chunks",
        ),
        (
            [MOE, "parallel.expert=2", "policies.experts.passes=joined"],
            "of 4 stages under 1f1b each waits for a pass of the next",
        ),
        (
            [MOE, "parallel.expert=2", "policies.schedule=gpipe", "policies.experts.passes=joined"],
            "schedule gpipe has no forward and backward passes to join",
        ),
        (
            [
                MOE,
                "parallel={expert: 2, pipeline: 1}",
                "workload.global_batch=64",
                "policies.experts.passes=joined",
            ],
            "one micro-batch has no other",
        ),
        (
            [
                MOE,
                "parallel.expert=2",
                "policies.schedule=zb_h1",
                "policies.experts.delay_wgrad=true",
            ],
            "schedule zb_h1 gives weight gradients passes of their own",
        ),
        (["policies.recompute_in=bubble"], "recompute: none runs nothing again"),
        (
            ["policies={recompute: full, recompute_in: bubble}", "parallel.pipeline=1"],
            "recompute_in: has no effect: without a pipeline",
        ),
        (
            ["policies={recompute: full, recompute_ahead: 2}"],
            "recompute_ahead: has no effect under recompute_in: backward",
        ),
        (
            ["policies={recompute_in: bubble, recompute_ahead: 2}"],
            "recompute_ahead: has no effect: recompute: none",
        ),
    ],
)
def test_choices_without_a_use_are_named(load: Load, changes: list[str], note: str) -> None:
    assert any(note in text for text in load(*changes).notes)


def test_what_jitter_costs_is_said(load: Load) -> None:
    (note,) = load("disturb=[{jitter: 0.02}]").notes
    assert note.startswith("disturb.0.jitter: plays all 64 devices")
    assert "64 / 4 stages = 16 times as long or longer" in note
    assert load("disturb=[{jitter: 0.02}]", "run.fold=false").notes == ()
    assert load("disturb=[{jitter: 0.02}]", "cluster.devices=8").notes == ()
