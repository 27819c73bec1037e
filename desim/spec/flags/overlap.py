"""What switches overlap and context parallelism on."""

from __future__ import annotations

from desim.spec.flags.switches import NONE, NUMBER, Switches

#: Megatron-LM megatron/training/arguments.py by tag; Transformer Engine pytorch/module.py of 0.8
#: (`initialize_ub`); PyTorch _inductor/config.py of 2.4, _symmetric_memory of 2.5 (_cuda_p2p of
#: 2.4); DeepSpeed zero configuration of 0.2.0; InternEvo configs/7B_sft.py of 0.2.0.
OVERLAP: dict[str, Switches] = {
    "policies.overlap.grad_reduce": {
        "none": ("Megatron-LM without --overlap-grad-reduce", "DeepSpeed overlap_comm: false"),
        "bucketed": (
            "Megatron-LM --overlap-grad-reduce (Core 0.4.0)",
            "PyTorch DDP: always",
            "DeepSpeed zero_optimization.overlap_comm (0.2.0)",
        ),
        "per_layer": (f"{NONE}: closest is PyTorch FSDP2 of every block (2.3), under zero: 3",),
    },
    "policies.overlap.param_gather": {
        "none": ("Megatron-LM without --overlap-param-gather", "DeepSpeed ZeRO-1/2: always"),
        "prefetch": (
            f"{NONE} of Megatron-LM: chained is closest",
            "InternEvo hybrid_zero_optimizer.overlap_sync_param, of broadcasts (0.2.0)",
        ),
        "chained": ("Megatron-LM --overlap-param-gather (Core 0.4.0)",),
    },
    "policies.overlap.tensor": {
        "none": ("Megatron-LM --no-async-tensor-model-parallel-allreduce (23.04)",),
        "megatron": ("Megatron-LM --sequence-parallel (23.04)",),
        "chunked": (
            "Megatron-LM --tp-comm-overlap (Core 0.4.0)",
            "Transformer Engine ub_tp_comm_overlap (0.8)",
            "PyTorch torch._inductor.config._micro_pipeline_tp (2.4)",
            "torchtitan parallelism.enable_async_tensor_parallel (0.1.0)",
        ),
    },
    "policies.overlap.pipeline": {
        "blocking": (
            "Megatron-LM without virtual stages: always",
            "Megatron-LM --no-overlap-p2p-communication (Core 0.4.0)",
        ),
        "async": ("Megatron-LM with virtual stages, unless --no-overlap-p2p-communication",),
    },
    "policies.overlap.tensor_chunks": {
        NUMBER: (
            "Transformer Engine num_splits of ub_cfgs (0.8)",
            "Megatron-LM --tp-comm-overlap-cfg (Core 0.4.0)",
        ),
    },
    "policies.overlap.tensor_exchange": {
        "ring": ("Transformer Engine method ring_exchange of ub_cfgs (0.8)",),
        "direct": (
            "PyTorch _symmetric_memory (2.5)",
            "torchtitan parallelism.enable_async_tensor_parallel (0.1.0)",
        ),
        "pipeline": ("Transformer Engine method pipeline of ub_cfgs (0.8)",),
    },
    "policies.overlap.receive_ahead": {
        NUMBER: (
            f"{NONE}: closest is Megatron-LM --overlap-p2p-communication-warmup-flush"
            " (Core 0.10.0)",
        ),
    },
}

#: Megatron-LM arguments.py and transformer_config.py of Core 0.10.0; Transformer Engine
#: pytorch/attention.py by release; DeepSpeed sequence/layer.py of 0.10.2; PyTorch
#: distributed/tensor/experimental/_attention.py of 2.6; torchtitan config by tag.
CONTEXT: dict[str, Switches] = {
    "policies.context": {
        "all_gather": (
            "Megatron-LM --cp-comm-type all_gather (Core 0.10.0)",
            "Transformer Engine cp_comm_type all_gather (1.10)",
            "torchtitan parallelism.context_parallel_rotate_method: allgather (0.1.0)",
        ),
        "ring": (
            "Megatron-LM --cp-comm-type p2p (Core 0.10.0)",
            "torchtitan parallelism.context_parallel_rotate_method: alltoall (0.1.0)",
            "PyTorch set_rotate_method (2.6)",
        ),
        "all_to_all": (
            "Megatron-LM --cp-comm-type a2a (Core 0.10.0)",
            "Transformer Engine cp_comm_type a2a (1.11)",
            "DeepSpeed sequence.layer.DistributedAttention, Ulysses (0.10.2)",
        ),
        "two_level": (
            "Megatron-LM --cp-comm-type a2a+p2p (Core 0.10.0)",
            "Transformer Engine cp_comm_type a2a+p2p (1.12)",
        ),
    },
    "policies.context_inside": {
        NUMBER: ("Megatron-LM --hierarchical-context-parallel-sizes, the first (Core 0.10.0)",),
    },
    "policies.context_balance": {
        "zigzag": (
            "Megatron-LM --context-parallel-size: always (Core 0.4.0)",
            "torchtitan parallelism.context_parallel_load_balancer: headtail (0.2.2)",
        ),
        "contiguous": ("torchtitan parallelism.context_parallel_load_balancer: null (0.2.2)",),
    },
}
