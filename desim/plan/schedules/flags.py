"""What switches each schedule on in the frameworks, with the first version that is known to."""

from __future__ import annotations

_TITAN = "torchtitan parallelism.pipeline_parallel_schedule"
#: Qi et al.'s Megatron-LM, github.com/sail-sg/zero-bubble-pipeline-parallelism (README).
_FORK = "sail-sg/zero-bubble-pipeline-parallelism"
_PENDING = f"{_FORK} --enable-zero-bubble --zero-bubble-max-pending-backward"

#: Schedule -> flags. Names and versions of PyTorch's: torch/distributed/pipelining/schedules.py,
#: `get_schedule_class`; pytorch.org/docs/2.4 lists the first four.
FLAGS: dict[str, str] = {
    "gpipe": f"{_TITAN}: GPipe (PyTorch 2.4)",
    "1f1b": "Megatron-LM --pipeline-model-parallel-size; DeepSpeed PipelineModule; "
    f"{_TITAN}: 1F1B (PyTorch 2.4)",
    "interleaved": "Megatron-LM --num-layers-per-virtual-pipeline-stage, rounds by "
    "--microbatch-group-size-per-virtual-pipeline-stage; "
    f"{_TITAN}: Interleaved1F1B (PyTorch 2.4)",
    "breadth_first": f"{_TITAN}: LoopedBFS (PyTorch 2.4)",
    "zb_h1": f"{_FORK}, branch zb-h1-quick-start",
    "zb_h2": "no framework: made by hand in the paper; zb_2p is what is switched on",
    "zb_1p": f"{_PENDING} p",
    "zb_2p": f"{_PENDING} 2p",
    "zb_v": f"{_FORK} --zero-bubble-v-schedule; {_TITAN}: ZBVZeroBubble (after PyTorch 2.5)",
    "zb_auto": f"{_PENDING} N",
    "dualpipe": "deepseek-ai/DualPipe: DualPipe",
    "dualpipe_v": f"deepseek-ai/DualPipe: DualPipeV; {_TITAN}: DualPipeV (after PyTorch 2.7)",
    "custom": "torchtitan parallelism.pipeline_parallel_schedule_csv",
}
