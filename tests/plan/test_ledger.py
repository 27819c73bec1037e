"""The memory ledger: what a rank holds over a step, by owner."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from desim.models.op import Layer
from desim.plan.build import held_layers
from desim.record import Memory
from tests.jobs import BASE, PHASE, Played, job, play

MODEL = BASE["workload"]["model"]
JOBS: dict[str, dict[str, Any]] = {
    "one device": {"cluster__devices": 1},
    "1f1b": {"parallel": {"tensor": 2, "pipeline": 4}},
    "gpipe, selective": {
        "parallel": {"tensor": 2, "pipeline": 4},
        "policies": {"schedule": "gpipe", "recompute": "selective"},
        "kernels": {"attention": "unfused"},
    },
    "interleaved, full": {
        "parallel": {"pipeline": 2, "virtual_stages": 2},
        "policies": {"schedule": "interleaved", "recompute": "full"},
    },
    "per op": {"parallel": {"tensor": 2, "pipeline": 2}, "policies": {"recompute": "per_op"}},
    "modules of some layers": {
        "parallel": {"tensor": 2, "pipeline": 2},
        "policies": {
            "recompute": "selective",
            "recompute_modules": ["norm", "activation", "core_attention"],
            "recompute_layers": 1,
        },
    },
    "replicated": {"parallel": {"zero": 0}},
    "gradients sharded": {"parallel": {"zero": 2}, "workload__global_batch": 16},
    "gradients sharded, experts without copies": {
        "workload__model": MODEL | {"gated": True, "moe": {"experts": 8, "top_k": 2, "ffn": 512}},
        "parallel": {"zero": 2, "expert": 8},
        "workload__global_batch": 16,
    },
    "sharded": {"parallel": {"zero": 3}, "workload__global_batch": 16, "run__steps": 2},
    "sharded, kept": {
        "parallel": {"zero": 3},
        "policies": {"fsdp": {"reshard_after_forward": False}, "recompute": "full"},
    },
}


def owner(memory: Memory, name: str) -> np.ndarray:
    """Bytes of one owner over the step."""
    row: np.ndarray = memory.by_owner[memory.owners.index(name)]
    return row


def saved(layers: tuple[Layer, ...]) -> float:
    return sum(module.saved_bytes for layer in layers for module in layer.modules)


@pytest.mark.parametrize("name", JOBS)
def test_nothing_is_left_at_the_end_of_a_step(name: str) -> None:
    """All that tasks allocate they free; parameters, gradients and optimizer states stay."""
    played = play(job(**JOBS[name]))
    for memory in played.record.memory:
        moving = [i for i, title in enumerate(memory.owners) if np.ptp(memory.by_owner[i])]
        assert moving
        fixed = [i for i in range(len(memory.owners)) if i not in moving]
        assert memory.by_owner[fixed].sum(axis=0).max() > 0
        top = memory.by_owner.max(axis=1)[moving]
        assert (np.abs(memory.by_owner[moving, 0]) == 0).all()
        assert (np.abs(memory.by_owner[moving, -1]) <= 1e-9 * top).all()
        assert (memory.by_owner[moving].min(axis=1) >= -1e-9 * top).all()


@pytest.mark.parametrize("name", JOBS)
def test_the_peak_is_the_largest_sum(name: str) -> None:
    for memory in play(job(**JOBS[name])).record.memory:
        total = memory.by_owner.sum(axis=0)
        assert memory.peak_bytes == total.max() == total[memory.peak_index]
        assert (np.diff(memory.time_ps) >= 0).all()


def pipeline(schedule: str, micro_batches: int, recompute: str = "none") -> Played:
    return play(
        job(
            workload__model={**MODEL, "layers": 12},
            workload__global_batch=2 * micro_batches,
            parallel={"pipeline": 4},
            policies={"schedule": schedule, "recompute": recompute},
        )
    )


@pytest.mark.parametrize("micro_batches", [1, 2, 3, 8])
def test_micro_batches_held_by_a_stage(micro_batches: int) -> None:
    """1F1B holds min(p - s, m) of them on stage s, GPipe all m."""
    for schedule in ("1f1b", "gpipe"):
        played = pipeline(schedule, micro_batches)
        layers = held_layers(played.plan.context)
        for memory, rank_class in zip(played.record.memory, played.record.classes, strict=True):
            stage = rank_class.stage
            held = micro_batches if schedule == "gpipe" else min(4 - stage, micro_batches)
            peak = owner(memory, "activations").max()
            assert peak == pytest.approx(held * saved(layers[stage]), rel=1e-12)


def test_full_recompute_holds_inputs_and_one_layer() -> None:
    """Of a stage of blocks: the inputs of all blocks of each micro-batch held, and the block that
    is being recomputed."""
    played = pipeline("1f1b", 8, "full")
    layers = held_layers(played.plan.context)
    for memory, rank_class in zip(played.record.memory, played.record.classes, strict=True):
        stage = rank_class.stage
        if stage not in (1, 2):
            continue
        block = layers[stage][0]
        assert {layer.kind for layer in layers[stage]} == {"block"}
        inputs = (4 - stage) * len(layers[stage]) * block.input_bytes
        peak = owner(memory, "activations").max()
        # The block's own input is kept by its first norm as well: one tensor.
        assert peak == pytest.approx(inputs + saved((block,)) - block.input_bytes, rel=1e-12)


def test_selective_recompute_drops_what_attention_saves() -> None:
    """Until the backward pass of its block, where it is there again for as long as that runs."""
    base = {"cluster__devices": 1, "workload__global_batch": 1, "kernels": {"attention": "unfused"}}
    plain = play(job(**base))
    selective = play(job(**base, policies__recompute="selective"))
    (layers,) = held_layers(plain.plan.context)
    block = layers[1]
    dropped = sum(m.saved_bytes for m in block.modules if m.recompute == ("core_attention",))
    assert dropped > 0.3 * saved((block,))
    before, after = (owner(p.record.memory[0], "activations").max() for p in (plain, selective))
    assert before == saved(layers)
    # The last block is the first to have it again: the head and its own MLP are free by then.
    names = [module.name for module in block.modules]
    mlp = block.modules[names.index("weighted_sum") + 1 :]
    free = saved(layers[-1:]) + sum(module.saved_bytes for module in mlp)
    again = before - MODEL["layers"] * dropped + dropped - free
    assert after == max(before - MODEL["layers"] * dropped, again)


def test_core_attention_is_recomputed_before_its_backward_pass() -> None:
    """Scores, softmax and their product with the values, then the gradients of all three."""
    played = play(
        job(
            cluster__devices=1,
            workload__global_batch=1,
            kernels={"attention": "unfused"},
            policies__recompute="selective",
        )
    )
    spans = played.spans()
    again = [int(i) for i in np.flatnonzero(spans.phase == PHASE["recompute"])]
    names = [played.record.names[spans.name[i]] for i in again]
    assert names == ["scores", "softmax", "weighted_sum"] * MODEL["layers"]
    for first in again[::3]:
        around = [played.record.names[spans.name[i]] for i in (first - 1, first + 3)]
        assert around == ["projection_wgrad", "weighted_sum_dp"]


def test_what_stays_follows_the_layout() -> None:
    """Bytes per parameter on eight replicas: see `bytes_per_parameter`."""
    for zero, each in ((0, 18.0), (1, 6 + 12 / 8), (2, 2 + 16 / 8), (3, 16 / 8)):
        played = play(job(parallel__zero=zero, workload__global_batch=8))
        parameters = sum(layer.parameters for layer in played.plan.context.layers)
        memory = played.record.memory[0]
        start = memory.by_owner[:, 0].sum() - owner(memory, "library buffers")[0]
        assert start == pytest.approx(each * parameters, rel=1e-9)


def test_an_update_converts_gradients_that_are_narrower() -> None:
    """Each rank converts its shard of 16-bit gradients to fp32: 4 bytes / d a parameter."""
    narrow = {"workload__precision": {"gradients": "bf16"}, "workload__global_batch": 8}
    for zero, share in ((0, 1), (1, 8)):
        played = play(job(parallel__zero=zero, **narrow))
        parameters = sum(layer.parameters for layer in played.plan.context.layers)
        steps = np.diff(owner(played.record.memory[0], "workspace"))
        assert steps.max() >= 4 * parameters / share
        assert np.isclose(steps, 4 * parameters / share).sum() == 1


def test_a_context_of_the_software_replaces_the_device_s() -> None:
    """What is outside the allocator moves by what the context does."""
    found = [play(job(kernels__context=size)).record.memory[0] for size in ("1 GiB", "3 GiB")]
    assert found[1].outside_bytes - found[0].outside_bytes == 2 * 2**30


def test_uncompiled_loss_beside_compiled_blocks() -> None:
    """PyTorch's loss holds fp32 gradients of the log-softmax and of its input: two blocks."""
    kernels = {"fusion": "compile", "cross_entropy": "eager"}
    played = play(job(cluster__devices=1, kernels=kernels))
    workload = played.plan.context.scenario.workload
    vocab = -(-MODEL["vocab"] // 128) * 128
    block = 4.0 * workload.micro_batch * workload.sequence_length * vocab
    steps = np.diff(owner(played.record.memory[0], "workspace"))
    assert np.isclose(steps, block).sum() >= 2


def test_older_nccl_connects_trees_beside_rings() -> None:
    """Two more connections for each channel of every communicator."""
    found = [
        play(job(kernels__nccl_version=name)).record.memory[0].outside_bytes
        for name in ("2.21", "2.22", "2.26")
    ]
    small = play(job(kernels__context="1 MiB")).record.memory[0].outside_bytes
    assert found[0] - found[1] == pytest.approx(2 * (small - 2**20))
    assert found[1] == found[2]
