"""What switches each policy on in the frameworks, with the first version that is known to.

A version in brackets is the first release in which the switch is found: the release before it was
looked at and lacks it, or there is none. Releases are tags of Megatron-LM (`Core` is Megatron
Core), DeepSpeed, torchtitan, Transformer Engine and NCCL, and packages of PyTorch. `seen in` names
a release that has it where those before were not looked at. What stands without a version is a
default, or has no release.
"""

from __future__ import annotations

from desim.spec.flags.communication import COLLECTIVES, EXPERTS, RESOURCES
from desim.spec.flags.data import DATA, FSDP
from desim.spec.flags.overlap import CONTEXT, OVERLAP
from desim.spec.flags.schedules import FORK, PENDING, RECOMPUTE, SCHEDULES
from desim.spec.flags.switches import ALL, NONE, NUMBER, Switches

__all__ = ["ALL", "FLAGS", "NONE", "NUMBER", "Switches"]

#: Path of a policy -> its choices -> what switches each on.
FLAGS: dict[str, Switches] = {
    "policies.schedule": SCHEDULES,
    "policies.schedule_memory": {NUMBER: (f"{PENDING}, over p",)},
    "policies.custom": {ALL: SCHEDULES["custom"]},
    "policies.post_validation": {
        "true": (f"{FORK} --enable-optimizer-post-validation",),
    },
    **RECOMPUTE,
    **OVERLAP,
    **CONTEXT,
    **DATA,
    **FSDP,
    **COLLECTIVES,
    **RESOURCES,
    #: Megatron-LM arguments.py of 1.0 and 2.5, DeepSpeed configuration of 0.1.0, torchtitan 0.1.0.
    "policies.split_p2p": {
        "true": ("Megatron-LM: by default",),
        "false": ("Megatron-LM --no-scatter-gather-tensors-in-pipeline (2.5)",),
    },
    "policies.gradient_clipping": {
        "true": (
            "Megatron-LM --clip-grad (1.0)",
            "DeepSpeed gradient_clipping (0.1.0)",
            "torchtitan training.max_norm (0.1.0)",
        ),
        "false": ("Megatron-LM --clip-grad 0",),
    },
    "policies.sync": {
        "grad_norm": (f"{NONE}: Megatron-LM reads the norm wherever --clip-grad does",),
        "step": (
            f"{NONE}: closest is Megatron-LM --log-interval 1 (1.0)",
            "torchtitan metrics.log_freq: 1 (0.1.0)",
        ),
        "none": (f"{NONE}: closest is a long interval of the same",),
    },
    **EXPERTS,
}
