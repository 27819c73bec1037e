"""Resources: what communication takes of a device, and in which order streams may start."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from annotated_types import Ge, Le
from pydantic import Field

from desim.spec.base import Spec
from desim.spec.hardware import System

#: Own channels of a device stay strictly faster than its links in floating point.
_CLEAR = 1.0 + 1e-9

#: Groups of ranks with streams of their own (messages between stages: two a direction).
StreamGroup = Literal["tp", "cp", "ep", "dp", "pp"]
Weight = Annotated[float, Ge(0.001), Le(1000)]


class LinkWeights(Spec):
    """Weights of groups on links that their transfers share.

    On a link that is full a transfer goes at a share of its rate alone in proportion to its weight;
    what one cannot use is left to others. So do virtual lanes with weighted arbitration
    (InfiniBand) and traffic classes with enhanced transmission selection (RoCE) where each would
    fill the link alone. They weigh bytes: a transfer that would load the link less keeps more there
    than here, where all slow down by the same factor for the same weight. Here on every link,
    NVLink too.
    """

    tp: Weight = 1.0
    """Tensor parallel."""
    cp: Weight = 1.0
    """Context parallel."""
    ep: Weight = 1.0
    """Exchange with experts (and the all-to-alls of embeddings)."""
    dp: Weight = 1.0
    """Data parallel: gradients and parameters."""
    pp: Weight = 1.0
    """Messages between pipeline stages."""


class Resources(Spec):
    """What communication takes of links and of a device, whose own constants are those left out."""

    nvlink_sms: Annotated[int, Ge(1)] | None = None
    """Streaming multiprocessors of a collective inside the NVLink domain: one for each channel.
    Fewer leave more to kernels and fill the links less: a ring or tree moves what its
    channels can, `cluster.system.device.communication.channel` each."""
    network_sms: Annotated[int, Ge(1)] | None = None
    """The same of a collective between nodes."""
    message_sms: Annotated[int, Ge(0)] | None = None
    """The same of a send or receive between stages; 0: copy engines move it. Its bandwidth is taken
    to be the same."""
    nvls_sms: Annotated[int, Ge(0)] | None = None
    """The same of an in-switch collective. Its bandwidth is taken to be the same."""
    max_connections: Annotated[int, Ge(1), Le(32)] = 8
    """Hardware queues between host and device. With 1, which
    Megatron-LM asks for beside tensor parallelism before Blackwell and FSDP cannot use, no kernel
    or collective starts before all that the host issued earlier has started; with more, streams are
    taken to have queues of their own."""

    high_priority: tuple[StreamGroup, ...] = Field(default=get_args(StreamGroup), strict=False)
    """Groups whose kernels have streams of high priority, which take their SMs at once. A kernel of
    any other group starts once the compute kernel that runs when it is ready has ended: thread
    blocks of one priority start in the order of launch, and those of a matrix product wait for
    every SM (NVIDIA/nccl issue 1431). Copy engines wait for none."""
    link_weights: LinkWeights = LinkWeights()
    """How links are shared between groups; equal weights share them equally."""

    def applied(self, system: System) -> System:
        """Return the system with these constants in place of its device's own."""
        own = system.device.communication
        names = ("nvlink_sms", "network_sms", "message_sms", "nvls_sms")
        chosen = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        fewer = any(chosen.get(n, getattr(own, n)) < getattr(own, n) for n in names[:2])
        update = {**chosen, "channel_bytes_per_s": self._channel(system) if fewer else None}
        communication = own.model_copy(update=update)
        device = system.device.model_copy(update={"communication": communication})
        return system.model_copy(update={"device": device})

    def _channel(self, system: System) -> float | None:
        """What one channel moves, at least so much that the device's own fill its links."""
        device, own = system.device, system.device.communication
        if own.channel_bytes_per_s is None:
            return None
        nvlink = device.nvlink_bytes_per_s * system.nvlink_efficiency
        links = max(nvlink, device.pcie_bytes_per_s * system.pcie_efficiency)
        own_channels = max(1, min(own.nvlink_sms, own.network_sms))
        return max(own.channel_bytes_per_s, links / own_channels) * _CLEAR
