"""What pins collectives, limits what they take of a device, and moves rows to experts."""

from __future__ import annotations

from desim.spec.flags.switches import ALL, NONE, NUMBER, Switches
from desim.spec.resources import LinkWeights

#: NCCL docs/userguide/source/env.rst of 2.30.7 for what is documented (the table of NCCL_ALGO, "per
#: function" since 2.24), src by tag for the rest; Tutel's examples of 0.2.0; DeepSpeed
#: runtime/zero/config.py of 0.9.2.
_SHARED_ALGORITHMS: Switches = {
    "ring": ("NCCL_ALGO=ring (NCCL 2.5; per collective 2.24)",),
    "nvls": ("NCCL_ALGO=nvls (NCCL 2.17)",),
}
_GATHER: Switches = {
    **_SHARED_ALGORITHMS,
    "tree": (f"{NONE}: closest is NCCL_ALGO=pat (NCCL 2.23)",),
}
_PROTOCOL: Switches = {ALL: ("NCCL_PROTO (NCCL 2.5; per collective 2.24)",)}
_MESSAGES: Switches = {
    ALL: (f"{NONE}: closest is NCCL_P2P_LL_THRESHOLD, a size in bytes (NCCL 2.14)",)
}
COLLECTIVES: dict[str, Switches] = {
    "policies.collectives.all_reduce": {
        **_SHARED_ALGORITHMS,
        "tree": ("NCCL_ALGO=tree (NCCL 2.5; per collective 2.24)",),
        "hierarchical": (f"{NONE}: closest is PyTorch FSDP1 HYBRID_SHARD (2.0)",),
    },
    "policies.collectives.all_gather": {
        **_GATHER,
        "hierarchical": (
            "DeepSpeed zero_optimization.mics_hierarchical_params_gather, under MiCS (0.9.2)",
        ),
    },
    "policies.collectives.reduce_scatter": {
        **_GATHER,
        "hierarchical": (f"{NONE}: closest is PyTorch FSDP1 HYBRID_SHARD (2.0)",),
    },
    "policies.collectives.all_to_all": {
        "pairwise": ("NCCL ncclSend and ncclRecv in a group: always (NCCL 2.7)",),
        "two_level": ("Tutel use_2dh (0.2.0)",),
    },
    **{
        f"policies.collectives.protocols.{name}": _PROTOCOL
        for name in ("all_reduce", "all_gather", "reduce_scatter", "broadcast")
    },
    "policies.collectives.protocols.all_to_all": _MESSAGES,
    "policies.collectives.protocols.send_recv": _MESSAGES,
    "policies.collectives.groups": {ALL: ("NCCL_TUNER_PLUGIN, by communicator (NCCL 2.19)",)},
}

#: NCCL env.rst and api/types.rst of 2.30.7, src/nccl.h.in, init.cc, graph/paths.cc and
#: transport/{p2p,nvls}.cc by tag; Megatron-LM arguments.py by tag; PyTorch
#: distributed/distributed_c10d.py of 1.9.
_CHANNELS: Switches = {
    NUMBER: (
        "NCCL_MAX_CTAS, NCCL_MIN_CTAS (NCCL 2.17; NCCL_MAX_NCHANNELS, NCCL_MIN_NCHANNELS 2.5)",
        "NCCL maxCTAs, minCTAs of a communicator (NCCL 2.17)",
        "Megatron-LM --nccl-communicator-config-path (Core 0.4.0)",
    ),
}
_WEIGHT: Switches = {
    NUMBER: (
        "NCCL_IB_SL (NCCL 2.1.4), NCCL_IB_TC (NCCL 2.1.15), of all groups",
        "NCCL trafficClass of a communicator (NCCL 2.26)",
    ),
}
RESOURCES: dict[str, Switches] = {
    "policies.resources.nvlink_sms": _CHANNELS,
    "policies.resources.network_sms": _CHANNELS,
    "policies.resources.message_sms": {
        NUMBER: (
            "NCCL_MIN_P2P_NCHANNELS, NCCL_MAX_P2P_NCHANNELS (NCCL 2.7)",
            "NCCL_NCHANNELS_PER_NET_PEER between nodes (NCCL 2.12)",
            "NCCL_P2P_USE_CUDA_MEMCPY=1, which is 0 inside a node (NCCL 2.13)",
        ),
    },
    "policies.resources.nvls_sms": {
        NUMBER: (
            "NCCL_NVLS_NCHANNELS (NCCL 2.17)",
            "NCCL nvlsCTAs of a communicator (NCCL 2.27)",
        ),
    },
    "policies.resources.max_connections": {
        NUMBER: ("CUDA_DEVICE_MAX_CONNECTIONS; Megatron-LM asks for 1 (23.04)",),
    },
    "policies.resources.high_priority": {
        ALL: (
            "Megatron-LM --high-priority-stream-groups (Core 0.13.0)",
            "PyTorch ProcessGroupNCCL.Options is_high_priority_stream (1.9)",
        ),
    },
    **{f"policies.resources.link_weights.{group}": _WEIGHT for group in LinkWeights.model_fields},
}

#: Megatron-LM arguments.py by tag; Tutel's helloworld.py of 0.1.4; torchtitan job_config.py and
#: models/moe/moe.py by tag; deepseek-ai/DeepEP's only tag is 1.2.1.
EXPERTS: dict[str, Switches] = {
    "policies.experts.shared": {
        "before": (f"{NONE}: Megatron-LM runs it after the routed experts by default",),
        "beside": ("Megatron-LM --moe-shared-expert-overlap (Core 0.10.0)",),
    },
    "policies.experts.chunks": {
        NUMBER: ("Tutel a2a_ffn_overlap_degree (0.1.4)",),
    },
    "policies.experts.load": {
        ALL: (
            f"{NONE}: the router decides",
            "Megatron-LM --moe-router-force-load-balancing makes it even (Core 0.13.0)",
            "torchtitan debug.moe_force_load_balance makes it even (0.2.1)",
        ),
    },
    "policies.experts.spread": {NUMBER: (f"{NONE}: as load",)},
    "policies.experts.dispatch": {
        "all_to_all": ("Megatron-LM --moe-token-dispatcher-type alltoall (Core 0.6.0)",),
        "node_first": (
            "Megatron-LM --moe-token-dispatcher-type flex --moe-enable-deepep (Core 0.12.0)",
            "torchtitan parallelism.expert_parallel_comm_backend: deepep (0.2.1)",
            "deepseek-ai/DeepEP (seen in 1.2.1)",
        ),
    },
    "policies.experts.passes": {
        "apart": ("Megatron-LM: by default",),
        "joined": (
            "Megatron-LM --overlap-moe-expert-parallel-comm (Core 0.14.0)",
            "deepseek-ai/DualPipe: always",
        ),
    },
    "policies.experts.delay_wgrad": {
        "true": (
            "Megatron-LM --delay-wgrad-compute (Core 0.13.0)",
            "Megatron-LM --overlap-dispatch-backward-with-experts-wgrad, apart (Core 0.18.0)",
        ),
    },
    "policies.experts.max_nodes": {
        NUMBER: (
            "Megatron-LM --moe-router-group-topk of --moe-router-num-groups (Core 0.11.0)",
            "torchtitan num_limited_groups of num_expert_groups (0.2.1)",
        ),
    },
}
