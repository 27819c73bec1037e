"""Resources: what communication takes of a device, and in which order streams may start."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Le

from desim.spec.base import Spec
from desim.spec.hardware import System

#: Own channels of a device stay strictly faster than its links in floating point.
_CLEAR = 1.0 + 1e-9


class Resources(Spec):
    """What communication takes of a device; what is left out are the device's own constants."""

    nvlink_sms: Annotated[int, Ge(1)] | None = None
    """Streaming multiprocessors of a collective inside the NVLink domain: one for each channel
    (NCCL_MAX_NCHANNELS and NCCL_MIN_NCHANNELS; `maxCTAs` and `minCTAs` of a communicator since NCCL
    2.17). Fewer leave more to kernels and fill the links less: a ring or tree moves what its
    channels can, `cluster.system.device.communication.channel` each."""
    network_sms: Annotated[int, Ge(1)] | None = None
    """The same of a collective between nodes."""
    message_sms: Annotated[int, Ge(0)] | None = None
    """The same of a send or receive between stages (NCCL_NCHANNELS_PER_PEER); 0: copy engines move
    it. Its bandwidth is taken to be the same."""
    nvls_sms: Annotated[int, Ge(0)] | None = None
    """The same of an in-switch collective. Its bandwidth is taken to be the same."""
    max_connections: Annotated[int, Ge(1), Le(32)] = 8
    """Hardware queues between host and device (CUDA_DEVICE_MAX_CONNECTIONS). With 1, which
    Megatron-LM asks for beside tensor parallelism before Blackwell and FSDP cannot use, no kernel
    or collective starts before all that the host issued earlier has started; with more, streams are
    taken to have queues of their own."""

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
