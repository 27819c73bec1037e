"""Recomputation: what a block keeps, and what runs again, in every mode."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from desim.models.shard import Shard
from desim.models.transformer import transformer_block
from desim.plan.recompute import Recompute, keeping, recomputed_positions
from desim.spec.policy import Kernels
from desim.spec.workload import Precision, Transformer
from tests.jobs import BASE, PHASE, Played, job, play

MODULES = ("core_attention", "norm", "activation", "mlp")
HIDDEN, HEADS, KV_HEADS, HEAD_DIM, FFN, TOKENS = 1024, 16, 4, 64, 2816, 512
LLAMA = Transformer(
    family="transformer",
    name="llama",
    source="test",
    layers=1,
    hidden=HIDDEN,
    heads=HEADS,
    kv_heads=KV_HEADS,
    head_dim=HEAD_DIM,
    ffn=FFN,
    gated=True,
    vocab=1024,
)
POLICIES = st.builds(
    Recompute,
    st.sampled_from(["none", "selective", "per_op", "full"]),
    st.lists(st.sampled_from(MODULES), min_size=1, unique=True).map(tuple),
    st.none() | st.integers(1, 6),
)


def block(tensor: int = 1, **kernels: Any) -> Any:
    shard = Shard(tensor, True, 1, 1, 1, TOKENS, Precision(), Kernels(**kernels))
    return transformer_block(LLAMA, shard)


def kept(policy: Recompute, **kernels: Any) -> float:
    """Bytes per token that a block keeps from its forward pass."""
    return sum(keeping(block(**kernels), policy).kept_bytes) / TOKENS


@given(POLICIES, st.sampled_from(["te", "eager", "apex"]), st.sampled_from(["unfused", "flash2"]))
def test_what_is_kept_and_what_comes_back_are_all_that_is_saved(
    policy: Recompute, fusion: str, attention: str
) -> None:
    """Nothing is kept twice, each module runs again at most once and before it is needed."""
    layer = block(fusion=fusion, attention=attention)
    found = keeping(layer, policy)
    saved = sum(module.saved_bytes for module in layer.modules)
    assert sum(found.kept_bytes) + sum(found.restored_bytes) == pytest.approx(saved, rel=1e-12)
    runs = [part for run in found.again.values() for part in run]
    assert len(runs) == len(set(runs))
    assert all(part <= before for before, run in found.again.items() for part in run)
    assert min(found.kept_bytes) >= 0


def test_bytes_kept_per_token() -> None:
    """In 16-bit: full keeps the input; per-op (torchtitan) q, v, attention and its log-sum-exp,
    gate and down as well; a norm or an activation that is made again drops the input of the
    matrix product after it; the MLP keeps its input alone."""
    everything = kept(Recompute())
    assert kept(Recompute("full")) == 2 * HIDDEN
    attention = 2 * HEAD_DIM * (2 * HEADS + KV_HEADS) + 4 * HEADS
    assert kept(Recompute("per_op")) == 2 * HIDDEN + attention + 2 * FFN + 2 * HIDDEN
    dropped = {"norm": 4 * HIDDEN, "activation": 2 * FFN, "mlp": 6 * FFN, "core_attention": 64}
    for name, size in dropped.items():
        assert kept(Recompute("selective", (name,))) == everything - size


def test_first_layers_of_a_chunk() -> None:
    layers = [block()] * 4
    assert recomputed_positions(layers, Recompute("full", layers=3)) == {0, 1, 2}
    assert recomputed_positions(layers, Recompute("full")) == {0, 1, 2, 3}


def again(played: Played) -> list[str]:
    spans = played.spans()
    return [
        played.record.names[spans.name[i]]
        for i in np.flatnonzero(spans.phase == PHASE["recompute"])
    ]


def played(**policies: Any) -> Played:
    model = {**BASE["workload"]["model"], "gated": True}
    base = {"cluster__devices": 2, "parallel": {"tensor": 2}, "workload__global_batch": 1}
    return play(job(**base, workload__model=model, policies=policies))


def test_full_recompute_issues_its_collectives_again() -> None:
    """A gather and a reduce-scatter for attention, another two for the MLP, in every block."""
    names = again(played(recompute="full"))
    wanted = ["qkv_input", "projection_output", "gate_up_input", "down_output"]
    assert [name for name in names if name in wanted] == wanted * BASE["workload"]["model"][
        "layers"
    ]
    assert len(again(played(recompute="full", recompute_layers=1))) * 4 == len(names)


def test_per_op_recompute_runs_every_second_product_again() -> None:
    """K, the output projection and up; what was reduced is kept, so nothing is reduced again."""
    whole = again(played(recompute="per_op"))
    names = whole[: len(whole) // BASE["workload"]["model"]["layers"]]
    products = ("qkv", "attention", "projection", "gate_up", "down")
    assert [name for name in names if name in products] == ["qkv", "projection", "gate_up"]
    assert not [name for name in names if name.endswith("_output")]
    assert "norm1" in names
    assert "rotary" in names
    assert "activation" in names


def test_a_discarded_result_is_made_before_the_product_that_reads_it() -> None:
    run = played(recompute="selective", recompute_modules=["norm", "activation"])
    spans = run.spans()
    names = [run.record.names[name] for name in spans.name]
    phases = spans.phase.tolist()
    for made, reader in (("activation", "down_dgrad"), ("norm2", "gate_up_dgrad")):
        first = next(
            i for i, name in enumerate(names) if name == made and phases[i] == PHASE["recompute"]
        )
        compute = [name for i, name in enumerate(names) if spans.lane[i] == 0 and i > first]
        assert compute[0] == reader


def test_memory_and_time_of_the_modes_are_ordered() -> None:
    """More recomputation takes more time and keeps less."""
    runs = [played(recompute=kind) for kind in ("none", "per_op", "full")]
    times = [run.step_ps for run in runs]
    held = [
        run.record.memory[0].by_owner[run.record.memory[0].owners.index("activations")].max()
        for run in runs
    ]
    assert times == sorted(times)
    assert len(set(times)) == 3
    assert held == sorted(held, reverse=True)
    assert len(set(held)) == 3


def test_an_early_stop_leaves_out_the_last_matrix_product() -> None:
    whole = again(played(recompute="full"))
    early = again(played(recompute="full", recompute_early_stop=True))
    assert {name for name in whole if name not in early} >= {"down"}
    assert "up" in early or "gate_up" in early


def test_an_early_stop_makes_a_dropout_mask_again() -> None:
    shard = Shard(1, True, 1, 1, 1, TOKENS, Precision(), Kernels())
    dropped = transformer_block(LLAMA.model_copy(update={"dropout": 0.1}), shard)
    policy = Recompute("full", early_stop=True)
    assert keeping(dropped, policy).stop == len(dropped.modules)
    assert keeping(block(), policy).stop < len(block().modules)


def test_an_early_stop_of_the_mlp_leaves_out_its_last_matrix_product() -> None:
    policy = {"recompute": "selective", "recompute_modules": ["mlp"]}
    whole = again(played(**policy))
    early = again(played(**policy, recompute_early_stop=True))
    assert {name for name in whole if name not in early} >= {"down"}
    assert "gate_up" in early


@given(st.sampled_from(["te", "eager", "apex"]), st.sets(st.sampled_from(MODULES), min_size=1))
def test_an_early_stop_keeps_no_more_and_no_less(fusion: str, modules: set[str]) -> None:
    one = block(fusion=fusion)
    whole, early = (
        keeping(one, Recompute("selective", tuple(modules), early_stop=stop))
        for stop in (False, True)
    )
    assert early.kept_bytes == whole.kept_bytes
    assert sum(early.restored_bytes) == pytest.approx(sum(whole.restored_bytes))
    again_of = [{part for run in k.again.values() for part in run} for k in (whole, early)]
    assert again_of[1] <= again_of[0]
    assert all(not early.restored_bytes[part] for part in again_of[0] - again_of[1])
