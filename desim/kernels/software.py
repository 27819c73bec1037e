"""What the host spends to launch kernels, by software stack.

Nobody publishes these per stack as a table, so they are put together from parts and held the same
for every scenario; `kernels.launch` replaces the one that matters.

- A bare `cudaLaunchKernel` takes 2 to 3 us of host time on current drivers.
- An eager PyTorch call adds Python, dispatcher and autograd: 5 to 10 us in all for a forward call;
  backward calls come from the C++ engine and cost about half. One number stands for both.
- TorchInductor's generated code calls its kernels with little in between.
- Fused extension modules (apex, Transformer Engine) do more Python per call, but for several
  kernels, so a kernel costs no more than an eager one.
- A grouped GEMM is a call per group: 9 us each (`op_efficiency.csv`, B200: 20 to 160 groups that
  compute less take 8.6 to 9.3 us a group in forward, whatever their size).
- A collective through torch.distributed adds stream events, work objects and NCCL's enqueue.
- A CUDA graph is one launch for all its kernels; their nodes cost the host nothing further
  (NVIDIA: constant-time launch of straight-line graphs, CUDA 12.6: 2.5 us and about 1 ns a node).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from desim.spec.policy import Kernels


@dataclass(frozen=True, slots=True)
class Stack:
    """Host times of a software stack, in seconds.

    `group_launch_s` per group of a grouped GEMM, `launch_s` per other kernel,
    `collective_launch_s` per collective or send/recv, `graph_launch_s` per forward or backward
    pass where `graphs` holds: then kernels and collectives cost nothing.
    `gap_s` is idle time of the device before each kernel.
    """

    launch_s: float
    collective_launch_s: float
    graph_launch_s: float = 10e-6
    group_launch_s: float = 9e-6
    graphs: bool = False
    gap_s: float = 0.0


#: From the end of a kernel to the start of the next where the host waits for each: the driver's
#: return from the synchronisation, the Python and dispatcher time of the next call, its launch.
_BLOCKED_GAP_S = 40e-6


#: fusion -> host times without graphs
_STACKS: dict[str, Stack] = {
    "eager": Stack(launch_s=6e-6, collective_launch_s=25e-6),
    "apex": Stack(launch_s=6e-6, collective_launch_s=25e-6),
    "compile": Stack(launch_s=4e-6, collective_launch_s=25e-6),
    "te": Stack(launch_s=6e-6, collective_launch_s=25e-6),
}


def stack(kernels: Kernels) -> Stack:
    """Return the host times of the scenario's software stack, with the scenario's own launch."""
    chosen = replace(_STACKS[kernels.fusion], graphs=kernels.cuda_graphs)
    if kernels.blocking_launch:
        chosen = replace(chosen, gap_s=_BLOCKED_GAP_S)
    if kernels.launch_s is not None:
        chosen = replace(chosen, launch_s=kernels.launch_s)
    return chosen
