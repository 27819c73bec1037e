"""What switches pipeline schedules and recomputation on."""

from __future__ import annotations

from desim.spec.flags.switches import NONE, NUMBER, Switches

_TITAN_SCHEDULE = "torchtitan parallelism.pipeline_parallel_schedule"
#: Qi et al.'s Megatron-LM, github.com/sail-sg/zero-bubble-pipeline-parallelism (README).
FORK = "sail-sg/zero-bubble-pipeline-parallelism"
PENDING = f"{FORK} --enable-zero-bubble --zero-bubble-max-pending-backward"

#: PyTorch torch/distributed/pipelining/schedules.py (`get_schedule_class`), by release; torchtitan
#: 0.1.0 is its first tag. Megatron-LM megatron/training.py of 2.0 says 1F1B, of 2.5 interleaved.
SCHEDULES: Switches = {
    "gpipe": (f"{_TITAN_SCHEDULE}: GPipe (0.1.0; PyTorch 2.4)",),
    "1f1b": (
        "Megatron-LM --pipeline-model-parallel-size (2.0)",
        "DeepSpeed PipelineModule (0.3.0)",
        f"{_TITAN_SCHEDULE}: 1F1B (0.1.0; PyTorch 2.4)",
    ),
    "interleaved": (
        "Megatron-LM --num-layers-per-virtual-pipeline-stage (2.5)",
        "Megatron-LM --microbatch-group-size-per-virtual-pipeline-stage for rounds (Core 0.10.0)",
        f"{_TITAN_SCHEDULE}: Interleaved1F1B (0.1.0; PyTorch 2.4)",
    ),
    "breadth_first": (f"{_TITAN_SCHEDULE}: LoopedBFS (0.1.0; PyTorch 2.4)",),
    "zb_h1": (f"{FORK}, branch zb-h1-quick-start",),
    "zb_h2": (f"{NONE}: made by hand in the paper; zb_2p is what is switched on",),
    "zb_1p": (f"{PENDING} p",),
    "zb_2p": (f"{PENDING} 2p",),
    "zb_v": (
        f"{FORK} --zero-bubble-v-schedule",
        f"{_TITAN_SCHEDULE}: ZBVZeroBubble (PyTorch 2.6)",
    ),
    "zb_auto": (f"{PENDING} N",),
    "dualpipe": ("deepseek-ai/DualPipe DualPipe",),
    "dualpipe_v": (
        "deepseek-ai/DualPipe DualPipeV",
        f"{_TITAN_SCHEDULE}: DualPipeV (PyTorch 2.9)",
    ),
    "custom": ("torchtitan parallelism.pipeline_parallel_schedule_csv (0.1.0; PyTorch 2.5)",),
}

#: Megatron-LM megatron/training/arguments.py and core/transformer/transformer_config.py by tag;
#: DeepSpeed deepspeed_checkpointing.py of 0.2.0; PyTorch torch/utils/checkpoint.py by release.
RECOMPUTE: dict[str, Switches] = {
    "policies.recompute": {
        "selective": ("Megatron-LM --recompute-granularity selective (23.04)",),
        "per_op": (
            "torchtitan activation_checkpoint.selective_ac_option: op (0.1.0)",
            "PyTorch create_selective_checkpoint_contexts (2.5)",
        ),
        "full": (
            "Megatron-LM --recompute-granularity full (23.04)",
            "DeepSpeed checkpointing.checkpoint (0.2.0)",
            "torchtitan activation_checkpoint.mode: full (0.1.0)",
            "PyTorch checkpoint_wrapper (1.11)",
        ),
    },
    "policies.recompute_modules": {
        "core_attention": ("Megatron-LM --recompute-modules core_attn (Core 0.12.0)",),
        "norm": ("Megatron-LM --recompute-modules layernorm (Core 0.12.0)",),
        "activation": (f"{NONE}: closest is Megatron-LM moe_act, of experts alone",),
        "mlp": ("Megatron-LM --recompute-modules mlp (Core 0.12.0)",),
        "expert_activation": ("Megatron-LM --recompute-modules moe_act (Core 0.12.0)",),
        "experts": ("Megatron-LM --recompute-modules moe (Core 0.12.0)",),
        "mla_up": ("Megatron-LM --recompute-modules mla_up_proj (Core 0.12.0)",),
    },
    "policies.recompute_layers": {
        NUMBER: ("Megatron-LM --recompute-method block --recompute-num-layers (23.04)",),
    },
    "policies.recompute_early_stop": {
        "true": (
            "PyTorch checkpoint(use_reentrant=False), set_checkpoint_early_stop (2.1)",
            "torchtitan activation_checkpoint.early_stop (0.2.0)",
        ),
        "false": ("Megatron-LM and DeepSpeed: always",),
    },
    "policies.recompute_in": {
        "backward": ("Megatron-LM, DeepSpeed and PyTorch: always",),
        "bubble": (f"{NONE}: Merak's shifted critical path schedule (arXiv:2206.04959)",),
    },
    "policies.recompute_ahead": {NUMBER: (f"{NONE}: see recompute_in",)},
}
