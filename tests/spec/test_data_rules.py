"""Choices of data parallelism, messages and resources: refused by name, or named without effect."""

from __future__ import annotations

import pytest

from tests.spec.conftest import Load, Refuse

FSDP = ["parallel.zero=3", "parallel.pipeline=1"]  # 32 data-parallel ranks


@pytest.mark.parametrize(
    ("changes", "path", "rule", "hint"),
    [
        (
            [*FSDP, "policies.fsdp.reshard_after_forward=3"],
            "policies.fsdp.reshard_after_forward",
            "32 x 1 = 32, 32 / 3 leaves 2",
            "nearest: 2 or 4, or true",
        ),
        (
            [*FSDP, "policies.fsdp.reshard_after_forward=32"],
            "policies.fsdp.reshard_after_forward",
            "be fewer",
            "nearest: 16",
        ),
        (
            [*FSDP, "parallel.shard=8", "policies.fsdp.reshard_after_forward=4"],
            "policies.fsdp.reshard_after_forward",
            "parallel.shard: 8 does",
            "leave parallel.shard out",
        ),
        (
            ["policies.resources.nvlink_sms=200"],
            "policies.resources.nvlink_sms",
            "cannot be more than the multiprocessors of H100-SXM-80GB: 200 > 132",
            "its own constant: 24",
        ),
        (
            ["policies.resources.max_connections=1", "kernels.cuda_graphs=true"],
            "policies.resources.max_connections",
            "launched at once",
            "max_connections: 8",
        ),
        (
            [
                "policies.resources.max_connections=1",
                "policies.overlap={pipeline: async, receive_ahead: 2}",
            ],
            "policies.resources.max_connections",
            "posted 2 passes ahead",
            "receive_ahead: 1",
        ),
        (
            [
                "cluster.system=dgx_a100_80_hdr200",
                "policies.collectives={groups: {tp: {all_reduce: nvls}}}",
            ],
            "policies.collectives.groups.tp.all_reduce",
            "no in-switch reduction",
            "ring",
        ),
        (
            ["policies.collectives.groups={xx: {all_reduce: ring}}"],
            "policies.collectives.groups.xx",
            "unknown key",
            "did you mean 'policies.collectives.groups.tp'?",
        ),
        (["policies.fsdp.issue=eager"], "policies.fsdp.issue", "must be one of explicit", ""),
        (
            ["policies.collectives.protocols=ll64"],
            "policies.collectives.protocols",
            "must be one of auto, ll, ll128, simple",
            "",
        ),
    ],
)
def test_refused(refuse: Refuse, changes: list[str], path: str, rule: str, hint: str) -> None:
    (mistake,) = refuse(*changes)
    assert mistake.path == path
    assert rule in mistake.rule
    assert hint in mistake.hint


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        (["policies.overlap.grad_reduce=per_layer", "policies.bucket=5 MB"], "reduces layer by"),
        ([*FSDP, "policies.overlap.grad_reduce=per_layer"], "grad_reduce: has no effect"),
        (["policies.overlap.param_gather=chained", "parallel.zero=0"], "gathers no buckets"),
        ([*FSDP, "policies.bucket=5 MB"], "zero: 3 reduces layer by layer"),
        (["policies.bucket_padding=megatron", "parallel.zero=0"], "ZeRO-1 or 2 shards them"),
        ([*FSDP, "policies.reduce_every_micro_batch=true"], "fsdp.reduce_every_micro_batch says"),
        (["policies.fsdp.issue=implicit"], "parallel.zero is 1"),
        ([*FSDP, "policies.fsdp={issue: implicit, prefetch: 2}"], "under fsdp.issue: implicit"),
        (
            [*FSDP, "policies.fsdp={issue: implicit, gathers_in_flight: 4}"],
            "gathers_in_flight: has no effect",
        ),
        (["policies.overlap.receive_ahead=2"], "under overlap.pipeline: blocking"),
        (["policies.overlap.pipeline=async"], "no asynchronous messages under schedule 1f1b"),
        (
            [*FSDP, "policies.overlap.param_gather=chained"],
            "param_gather: has no effect: parallel.zero: 3 gathers and reduces by layer",
        ),
        (
            [*FSDP, "policies.overlap.grad_reduce=per_layer"],
            "grad_reduce: has no effect: parallel.zero: 3 gathers and reduces by layer",
        ),
        ([*FSDP, "policies.resources.max_connections=1"], "more than one hardware queue"),
        (
            ["cluster.system=dgx_a100_80_hdr200", "policies.resources.nvls_sms=8"],
            "has no in-switch reduction",
        ),
        (["policies.resources.link_weights.cp=4"], "parallel.context is 1"),
        (["policies.resources.link_weights.ep=4"], "link_weights.ep: has no effect: Llama"),
        (
            ["workload.model=mixtral_8x7b", "policies.resources.link_weights.ep=4"],
            "link_weights.ep: has no effect: parallel.expert is 1",
        ),
        (
            ["cluster.devices=8", "policies.resources.link_weights.dp=4"],
            "link_weights.dp: has no effect: the number of ranks that share gradients is 1",
        ),
    ],
)
def test_named_without_effect(load: Load, changes: list[str], note: str) -> None:
    assert [text for text in load(*changes).notes if note in text], load(*changes).notes


@pytest.mark.parametrize(
    "changes",
    [
        ["policies.overlap.grad_reduce=per_layer", "policies.overlap.param_gather=chained"],
        ["policies.bucket_padding=megatron_busbw"],
        ["policies.reduce_every_micro_batch=true"],
        [*FSDP, "policies.fsdp={issue: implicit, reshard_after_forward: 8}"],
        [*FSDP, "policies.fsdp={prefetch: 2, prefetch_backward: 1, gathers_in_flight: 3}"],
        [
            "policies.overlap={pipeline: async, receive_ahead: 0}",
            "policies.schedule=interleaved",
            "parallel.virtual_stages=2",
        ],
        ["policies.resources={nvlink_sms: 8, network_sms: 4, message_sms: 0, nvls_sms: 4}"],
        ["policies.resources.max_connections=1"],
        ["policies.resources={high_priority: [tp], link_weights: {pp: 4}}"],
        ["parallel.context=8", "policies.resources.link_weights.dp=4"],
        ["policies.collectives={protocols: simple, groups: {dp: {all_gather: tree}}}"],
    ],
)
def test_taken_without_a_word(load: Load, changes: list[str]) -> None:
    assert load(*changes).notes == ()
