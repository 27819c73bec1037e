"""Law: one representative per rank class plays what all of its ranks would play."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from desim.network.topology import build_topology
from desim.spec.scenario import Scenario
from tests.jobs import BASE, Played, job, play, with_system

MODEL = BASE["workload"]["model"]
AXES = ("tp", "cp", "ep", "dp", "pp")


def unfolded(scenario: Scenario) -> Scenario:
    """The scenario with every rank played."""
    run = scenario.run.model_copy(update={"fold": False})
    return scenario.model_copy(update={"run": run})


def check(scenario: Scenario) -> Played:
    """Play folded and unfolded; every rank must do the same at the same picosecond."""
    folded, whole = play(scenario), play(unfolded(scenario))
    devices = scenario.cluster.devices
    assert len(whole.record.classes) == devices
    assert sum(rank_class.count for rank_class in folded.record.classes) == devices
    assert folded.step_ps == whole.step_ps
    of = folded.plan.folding.ranks.of
    for rank in range(devices):
        one, all_ = folded.spans(int(of[rank])), whole.spans(rank)
        for column in ("name", "issue_ps", "ready_ps", "start_ps", "end_ps"):
            assert (getattr(one, column) == getattr(all_, column)).all(), (rank, column)
    return folded


# Random jobs


@st.composite
def meshes(draw: st.DrawFn) -> dict[str, Any]:
    """A mesh of up to 32 ranks with a batch that it can play."""
    tensor = draw(st.sampled_from([1, 2, 4]))
    pipeline = draw(st.sampled_from([1, 2, 4]))
    context = draw(st.sampled_from([1, 1, 2]))
    inner = tensor * pipeline * context
    data = draw(st.sampled_from([n for n in (1, 2, 4, 8) if n * inner <= 32]))
    devices = inner * data
    assume(devices < 8 or devices % 8 == 0)
    schedule = draw(st.sampled_from(["gpipe", "1f1b", "interleaved"] if pipeline > 1 else ["1f1b"]))
    chunks = 2 if schedule == "interleaved" else 1
    micro_batches = draw(st.integers(1, 3)) * (pipeline if chunks > 1 else 1)
    zero = draw(st.sampled_from([0, 1] if pipeline > 1 else [0, 1, 2, 3]))
    return {
        "workload__model": {
            **MODEL,
            "layers": pipeline * chunks * draw(st.sampled_from([1, 2])),
            "tied_embeddings": draw(st.booleans()),
        },
        "workload__global_batch": micro_batches * data,
        "cluster__devices": devices,
        "parallel": {
            "tensor": tensor,
            "pipeline": pipeline,
            "context": context,
            "virtual_stages": chunks,
            "zero": zero,
            "shard": draw(st.sampled_from([n for n in (2, 4, 8) if data * context % n == 0] or [1]))
            if zero and data * context > 1 and draw(st.booleans())
            else None,
            "sequence": draw(st.booleans()),
            "order": "-".join(draw(st.one_of(st.just(AXES), st.permutations(AXES)))),
        },
        "schedule": schedule,
    }


POLICIES = st.fixed_dictionaries(
    {
        "recompute": st.sampled_from(["none", "selective", "full"]),
        "zero_partition": st.sampled_from(["flat", "tensors"]),
        "context": st.sampled_from(["all_gather", "ring", "all_to_all", "two_level"]),
        "context_balance": st.sampled_from(["zigzag", "zigzag", "contiguous"]),
        "bucket": st.sampled_from(["4 MB", "160 MB"]),
        "overlap": st.fixed_dictionaries(
            {
                "grad_reduce": st.sampled_from(["none", "bucketed", "per_layer"]),
                "param_gather": st.sampled_from(["none", "prefetch", "chained"]),
                "tensor": st.sampled_from(["none", "megatron", "chunked"]),
                "tensor_chunks": st.sampled_from([None, 8]),
                "tensor_exchange": st.sampled_from(["ring", "direct", "pipeline"]),
                "pipeline": st.sampled_from(["blocking", "async"]),
                "receive_ahead": st.integers(0, 1),
            }
        ),
        "fsdp": st.fixed_dictionaries(
            {
                "prefetch": st.integers(0, 2),
                "gathers_in_flight": st.integers(1, 3),
                "reduce_every_micro_batch": st.booleans(),
                "root_unit": st.booleans(),
                "per_parameter": st.booleans(),
                "issue": st.sampled_from(["explicit", "host_run_ahead", "implicit"]),
                "prefetch_backward": st.sampled_from([None, 0, 2]),
            }
        ),
        "split_p2p": st.booleans(),
        "sync": st.sampled_from(["grad_norm", "step", "none"]),
        "reduce_every_micro_batch": st.booleans(),
        "bucket_padding": st.sampled_from(["aligned_shards", "megatron", "none"]),
        "resources": st.fixed_dictionaries(
            {
                "nvlink_sms": st.sampled_from([None, 4]),
                "max_connections": st.sampled_from([1, 8]),
                "high_priority": st.sampled_from([["tp", "cp", "ep", "dp", "pp"], [], ["tp"]]),
                "link_weights": st.sampled_from([{}, {"pp": 4, "tp": 0.5}]),
            }
        ),
    }
)
DISTURBANCES = st.lists(
    st.one_of(
        st.fixed_dictionaries(
            {"device": st.integers(0, 31), "compute": st.sampled_from([0.5, 0.9])}
        ),
        st.fixed_dictionaries(
            {
                "link": st.sampled_from(
                    ["nic_*[0.0]", "rail1", "nvlink_out[3]", "leaf_up[su0*]", "spine_down*"]
                ),
                "bandwidth": st.just(0.3),
            }
        ),
        st.just({"jitter": 0.03}),
    ),
    max_size=2,
)
NETWORKS = st.fixed_dictionaries(
    {
        "topology": st.sampled_from(["rail", "fat_tree"]),
        "radix": st.sampled_from([4, 8, 64]),
        "oversubscription": st.sampled_from([1.0, 2.0]),
    }
)
NODES = st.sampled_from([(8, 8), (8, 2), (4, 4), (4, 1), (2, 2)])


@settings(max_examples=60, deadline=None)
@given(meshes(), POLICIES, DISTURBANCES, NETWORKS, NODES)
def test_folded_is_unfolded(
    mesh: dict[str, Any],
    policies: dict[str, Any],
    disturbances: list[dict[str, Any]],
    network: dict[str, Any],
    node: tuple[int, int],
) -> None:
    schedule = mesh.pop("schedule")
    if policies["overlap"]["tensor"] == "chunked" and not mesh["parallel"]["sequence"]:
        policies = {**policies, "overlap": {**policies["overlap"], "tensor": "megatron"}}
    per_node, nics = node
    scenario = with_system(
        job(**mesh, policies={**policies, "schedule": schedule}),
        fabric=network,
        devices_per_node=per_node,
        nics_per_node=nics,
        nvlink_domain=per_node,
    )
    check(disturbed(scenario, disturbances))


def disturbed(scenario: Scenario, disturbances: list[dict[str, Any]]) -> Scenario:
    """Add those disturbances whose device and link the cluster has."""
    devices = scenario.cluster.devices
    topology = build_topology(scenario.cluster.system, devices)
    exist = [
        item
        for item in disturbances
        if item.get("device", 0) < devices
        and ("link" not in item or len(topology.links_matching(item["link"])))
    ]
    wide = job(cluster__devices=32, workload__global_batch=32, disturb=exist)
    return scenario.model_copy(update={"disturb": wide.disturb})


# Jobs of which the number of classes is known


def test_a_regular_job_has_one_class_per_stage() -> None:
    folded = check(job(cluster__devices=32, parallel={"tensor": 2, "pipeline": 4}))
    assert [c.count for c in folded.record.classes] == [8, 8, 8, 8]
    assert [c.stage for c in folded.record.classes] == [0, 1, 2, 3]


def test_a_slow_device_splits_off_its_group_and_its_peers() -> None:
    """Four replicas of tp 2: the slow rank, its tensor partner, and what they are to the others."""
    slow = {"disturb": [{"device": 2, "compute": 0.5}]}
    folded = check(job(parallel={"tensor": 2, "zero": 0}, **slow))
    assert sorted(c.count for c in folded.record.classes) == [1, 1, 3, 3]


def test_jitter_unfolds() -> None:
    folded = play(job(disturb=[{"jitter": 0.01}]))
    assert [c.count for c in folded.record.classes] == [1] * 8


def test_a_degraded_link_is_seen_where_only_latency_counts() -> None:
    """With steps so long that bytes are next to nothing, collectives load no links: the times that
    they take still differ by the link."""
    scenario = job(
        cluster__devices=16,
        parallel={"tensor": 2, "pipeline": 2},
        disturb=[{"link": "nvlink_out[4]", "bandwidth": 0.5}],
    )
    folded = check(with_system(scenario, nvlink_latency_s=0.1, fabric={"latency_s": 1e-3}))
    assert all(use.light for use in folded.plan.wiring.uses if use.family == "tp")
    assert len(folded.record.classes) == 8


def test_spines_are_crossed_by_some_and_not_by_others() -> None:
    """Pipeline neighbours that are consecutive ranks: some pairs share a leaf, some do not."""
    scenario = job(
        cluster__devices=32,
        workload__global_batch=32,
        parallel={"pipeline": 4, "tensor": 2, "order": "tp-pp-cp-ep-dp"},
    )
    folded = check(
        with_system(
            scenario,
            devices_per_node=4,
            nics_per_node=4,
            nvlink_domain=4,
            fabric={"topology": "fat_tree", "radix": 8, "oversubscription": 4.0},
        )
    )
    climbing = {link.kind for link in folded.record.links}
    assert {"leaf_up", "leaf_down"} <= climbing


@pytest.mark.parametrize("embedding", ["sharded", "replicated"])
def test_recommendation_models_fold(embedding: str) -> None:
    model = {
        "family": "dlrm",
        "name": "tiny",
        "source": "test",
        "tables": 16,
        "rows": 10000,
        "embedding_dim": 64,
        "pooling": 10,
        "bottom_mlp": [128, 256, 64],
        "top_mlp": [512, 512, 1],
    }
    scenario = job(
        workload={
            "model": model,
            "global_batch": 16 * 512,
            "micro_batch": 512,
            "precision": {
                "compute": "tf32",
                "gradients": "fp32",
                "optimizer": "adagrad_rowwise",
                "embedding": "fp16",
            },
        },
        cluster={"system": "a100_40_zionex", "devices": 16},
        parallel={"zero": 0, "embedding": embedding},
        policies={"gradient_clipping": False, "sync": "step", "bucket": "0.2 MB"},
    )
    assert len(check(scenario).record.classes) == 1
    slow = job(disturb=[{"device": 3, "compute": 0.5}]).disturb
    counts = [c.count for c in check(scenario.model_copy(update={"disturb": slow})).record.classes]
    assert sorted(counts) == [1, 15]
