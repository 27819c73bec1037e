"""What switches the policies of data parallelism on."""

from __future__ import annotations

from desim.spec.flags.switches import NONE, NUMBER, Switches

#: Megatron-LM core/distributed/param_and_grad_buffer.py by tag (lcm(ranks, 128) since 0.7.0);
#: PyTorch nn/parallel/distributed.py by release (`no_sync` in 1.2, not in 1.1); DeepSpeed
#: runtime/engine.py of 0.16.0; InternEvo solver/optimizer/hybrid_zero_optim.py of 0.1.0.
DATA: dict[str, Switches] = {
    "policies.bucket": {
        NUMBER: (
            "Megatron-LM --ddp-bucket-size, in elements (Core 0.7.0)",
            "PyTorch DDP bucket_cap_mb (seen in 1.0)",
            "DeepSpeed zero_optimization.reduce_bucket_size, in elements (0.2.0)",
        ),
    },
    "policies.bucket_padding": {
        "aligned_shards": (f"{NONE}: closest is megatron",),
        "megatron": ("Megatron-LM --use-distributed-optimizer (Core 0.7.0)",),
        "megatron_busbw": ("Megatron-LM --ddp-pad-buckets-for-high-nccl-busbw (Core 0.12.0)",),
        "none": (f"{NONE}: closest is any of them on one rank",),
    },
    "policies.reduce_every_micro_batch": {
        "true": ("PyTorch DDP outside of no_sync",),
        "false": (
            "Megatron-LM: always",
            "PyTorch DDP no_sync (1.2)",
            "DeepSpeed ZeRO-0/1: always (no_sync: 0.16.0)",
        ),
    },
    "policies.bucket_copies": {
        "true": ("DeepSpeed zero_optimization.reduce_bucket_size (0.2.0)",),
        "false": ("Megatron-LM: always",),
    },
    "policies.zero_partition": {
        "flat": (
            "Megatron-LM --use-distributed-optimizer (23.04)",
            "DeepSpeed zero_optimization.stage: 1 (0.2.0)",
        ),
        "tensors": ("InternEvo parallel.zero1 (0.1.0)", "PyTorch ZeroRedundancyOptimizer (1.8)"),
    },
}

#: PyTorch distributed/fsdp/fully_sharded_data_parallel.py (FSDP1) and _composable/fsdp (FSDP2, in
#: distributed/fsdp/_fully_shard since 2.6) by release; torchtitan config_manager.py of 0.1.0;
#: Megatron-LM arguments.py of Core 0.13.0; DeepSpeed zero configuration of 0.3.12 and 0.10.0.
FSDP: dict[str, Switches] = {
    "policies.fsdp.issue": {
        "explicit": (
            "PyTorch FSDP1 forward_prefetch=True (1.13)",
            "PyTorch FSDP2 set_modules_to_forward_prefetch, ..._backward_prefetch (2.5)",
        ),
        "host_run_ahead": (
            "PyTorch FSDP1 backward_prefetch=BACKWARD_PRE (1.11; by default since 2.0)",
        ),
        "implicit": ("PyTorch FSDP2 by default (2.3)", "torchtitan: always, dense models (0.1.0)"),
    },
    "policies.fsdp.prefetch": {
        NUMBER: (
            "PyTorch FSDP1 forward_prefetch=True, which is 1 (1.13)",
            "PyTorch FSDP2 set_modules_to_forward_prefetch (2.5)",
            "DeepSpeed zero_optimization.stage3_prefetch_bucket_size, in elements (0.3.12)",
        ),
    },
    "policies.fsdp.prefetch_backward": {
        NUMBER: (
            "PyTorch FSDP1 backward_prefetch: BACKWARD_PRE is 1, None is 0 (1.11)",
            "PyTorch FSDP2 set_modules_to_backward_prefetch (2.5)",
        ),
    },
    "policies.fsdp.gathers_in_flight": {
        NUMBER: (
            "PyTorch FSDP1 limit_all_gathers, which is 2 (1.13; by default since 2.1)",
            "DeepSpeed zero_optimization.stage3_max_live_parameters, in elements (0.3.12)",
        ),
    },
    "policies.fsdp.reshard_after_forward": {
        "true": (
            "PyTorch FSDP1 FULL_SHARD (1.12)",
            "PyTorch FSDP2 reshard_after_forward=True (2.3)",
            "torchtitan parallelism.fsdp_reshard_after_forward: always (0.1.0)",
        ),
        "false": (
            "PyTorch FSDP1 SHARD_GRAD_OP (1.12)",
            "PyTorch FSDP2 reshard_after_forward=False (2.3)",
            "torchtitan parallelism.fsdp_reshard_after_forward: never (0.1.0)",
            "Megatron-LM --torch-fsdp2-no-reshard-after-forward (Core 0.13.0)",
        ),
        NUMBER: (
            "PyTorch FSDP2 reshard_after_forward=N (2.3)",
            "DeepSpeed zero_optimization.zero_hpz_partition_size (0.10.0)",
        ),
    },
    "policies.fsdp.reduce_every_micro_batch": {
        "true": ("PyTorch FSDP: by default",),
        "false": (
            "PyTorch FSDP1 no_sync (1.12)",
            "PyTorch FSDP2 set_requires_gradient_sync (2.3)",
        ),
    },
    "policies.fsdp.root_unit": {
        "true": (
            "PyTorch FSDP1 auto_wrap_policy that wraps blocks alone (1.12)",
            "torchtitan: always (0.1.0; not in 0.2.0)",
        ),
        "false": ("torchtitan: always (0.2.0)",),
    },
    "policies.fsdp.per_parameter": {
        "true": (
            "PyTorch FSDP2 fully_shard (2.3; public since 2.6)",
            "Megatron-LM --use-torch-fsdp2 (Core 0.10.0)",
        ),
        "false": ("PyTorch FSDP1 FullyShardedDataParallel (1.11)",),
    },
}
