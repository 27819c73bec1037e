"""NCCL's protocols: how LL, LL128 and Simple trade latency for bandwidth, per kind of kernel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from desim.network.loads import Profile
    from desim.spec.hardware import ProtocolCosts, System

#: Kinds of kernels: rings, trees, the parallel aggregated trees (PAT), in-switch collectives,
#: all-to-alls, a single send, and copies, which cost bytes alone.
Kernel = Literal["ring", "tree", "pat", "nvls", "messages", "send", "copy"]

#: Names in the order in which `desim.network.tuner.Choice` numbers them.
NAMES = ("LL", "LL128", "Simple")

#: Latency of an in-switch collective over that of one ring step inside the domain: 23 us over 3.4
#: us, entries NVLS and ring (Simple, NVLINK) of the table hwLat in NCCL's src/graph/tuning.cc.
NVLS_STEPS = 23.0 / 3.4


@dataclass(frozen=True, slots=True)
class Protocol:
    """How a protocol's latency and bandwidth compare with those of Simple.

    `near` factors hold inside nodes or NVLink domains and `far` ones between them. `base_s` is what
    a collective pays once, whatever its size and group, inside a domain, and `far_base_s` across.
    """

    name: str
    near_factor: float
    far_factor: float
    near_bandwidth_factor: float
    far_bandwidth_factor: float
    base_s: float
    far_base_s: float
    wire_bytes: float = 1.0
    """Bytes on a link for each byte of data: flags travel with them (LL 8 for 4, LL128 128 for
    120)."""

    @property
    def near_wire_bytes(self) -> float:
        """The same inside nodes, as far as the share of the bandwidth leaves room for them.

        A link's capacity is what Simple moves in data: a protocol that was measured near that must
        be able to reach it alone.
        """
        return min(self.wire_bytes, 1 / self.near_bandwidth_factor)

    @property
    def far_wire_bytes(self) -> float:
        """The same between them."""
        return min(self.wire_bytes, 1 / self.far_bandwidth_factor)

    def expected_s(self, profile: Profile) -> NDArray[np.float64]:
        """Latency that NCCL's own model expects, which knows of no slices (src/graph/tuning.cc)."""
        steps_s = profile.near_s * self.near_factor + profile.far_s * self.far_factor
        once_s = np.where(profile.far_s > 0, self.far_base_s, self.base_s)
        total_s: NDArray[np.float64] = steps_s + once_s * (profile.latency_s > 0)
        return total_s

    def latency_s(self, profile: Profile, size_bytes: float) -> NDArray[np.float64]:
        """Latency of one collective of a size on each group of a profile."""
        total_s = self.expected_s(profile)
        if profile.relay is not None:
            near, far = (min(slice_bytes, size_bytes) for slice_bytes in _SLICE_BYTES[self.name])
            total_s += profile.relay.near_seconds_per_byte * near
            total_s += profile.relay.far_seconds_per_byte * far
        return total_s

    def seconds_per_byte(self, profile: Profile) -> NDArray[np.float64]:
        """Time per byte of one collective alone on each group of a profile."""
        return np.maximum(self.near_seconds_per_byte(profile), self.far_seconds_per_byte(profile))

    def near_seconds_per_byte(self, profile: Profile) -> NDArray[np.float64]:
        """The same of what goes on inside nodes or NVLink domains."""
        return profile.near_seconds_per_byte / self.near_bandwidth_factor

    def far_seconds_per_byte(self, profile: Profile) -> NDArray[np.float64]:
        """The same of what goes on between them."""
        return profile.far_seconds_per_byte / self.far_bandwidth_factor


#: NCCL's own model, from its src/graph/tuning.cc. Steps: ring entries of hwLat for NVLink (LL 0.6,
#: LL128 1.9, Simple 3.4 us) and network (2.7, 4.0, 14 us), over those of Simple.
_NEAR_STEP = {"LL": 0.6 / 3.4, "LL128": 1.9 / 3.4, "Simple": 1.0}
_FAR_STEP = {"LL": 2.7 / 14, "LL128": 4.0 / 14, "Simple": 1.0}
#: Paid once, in microseconds: the table baseLat, ring and tree.
_BASE_US = {"LL": (6.6, 6.8), "LL128": (14.0, 14.0), "Simple": (8.4, 8.4)}
#: A Simple step of the table inside a node: a device with slower steps pays more once.
_STEP_US = 3.4
#: LL128 carries 120 bytes of data in 128; LL carries 4 in 8, and the same file limits it further,
#: to 1/3.8 in trees and to llMaxBws in rings (Hopper: 87.7 GB/s in one node, 22.5 in two): about a
#: quarter.
_BANDWIDTH = {"LL": 0.25, "LL128": 120 / 128, "Simple": 1.0}
#: Bytes on the wire for each byte of data.
_WIRE = {"LL": 8 / 4, "LL128": 128 / 120, "Simple": 1.0}
#: Bytes that a member of a chain has to have before it passes any on, inside nodes and between
#: them: one of the 8 slots of a channel's buffer (src/include/device.h, src/init.cc): 4 MiB
#: (Simple), 4915200 B of which 120 in 128 are data (LL128), 512 KiB of which half are (LL). Inside
#: a node LL and LL128 pass on line by line, between nodes a proxy sends whole slots.
_SLICE_BYTES = {
    "LL": (0.0, 2.0**15),
    "LL128": (0.0, 4915200 / 8 * 120 / 128),
    "Simple": (2.0**19, 2.0**19),
}


def protocols_of(system: System, kernel: Kernel) -> tuple[Protocol, ...]:
    """Protocols that a kind of kernel exists in on a system, those for smaller sizes first."""
    measured = system.node_collectives
    if kernel == "copy" or (kernel == "send" and measured is None):
        return (_SIMPLE,)
    if kernel == "nvls":
        base_s = measured.nvls_base_s if measured else None
        if base_s is None:
            return (_SIMPLE,)
        return (replace(_SIMPLE, near_factor=0.0, base_s=base_s),)
    names: tuple[str, ...] = NAMES[-1:] if kernel == "pat" else NAMES
    if measured is None:
        return tuple(_modelled(system, kernel, name) for name in names)
    if kernel in ("messages", "send"):
        # NCCL's send and receive kernels have no LL128.
        costs = {"LL": _stated(measured.messages_ll), "Simple": _stated(measured.messages)}
        names = ("LL", "Simple")
    else:
        simple = measured.simple_base_s, system.nvlink_latency_s, system.nvlink_efficiency
        costs = {"LL": _stated(measured.ll), "LL128": _stated(measured.ll128), "Simple": simple}
    return tuple(_measured(system, kernel, name, costs[name]) for name in names)


#: Base, step and share of the bandwidth.
_Costs = tuple[float, float, float]

_SIMPLE = Protocol("Simple", 1.0, 1.0, 1.0, 1.0, 0.0, 0.0)


def _modelled(system: System, kernel: Kernel, name: str) -> Protocol:
    base_s = _BASE_US[name][kernel == "tree"] / _STEP_US * system.nvlink_latency_s
    share = _BANDWIDTH[name]
    return Protocol(
        name, _NEAR_STEP[name], _FAR_STEP[name], share, share, base_s, base_s, _WIRE[name]
    )


def _stated(costs: ProtocolCosts) -> _Costs:
    return costs.base_s, costs.step_s, costs.efficiency


def _measured(system: System, kernel: Kernel, name: str, costs: _Costs) -> Protocol:
    base_s, step_s, efficiency = costs
    far_base_s = _BASE_US[name][kernel == "tree"] * 1e-6 if kernel != "send" else 0.0
    return Protocol(
        name=name,
        near_factor=step_s / system.nvlink_latency_s if system.nvlink_latency_s else 0.0,
        far_factor=_FAR_STEP[name],
        near_bandwidth_factor=efficiency / system.nvlink_efficiency,
        far_bandwidth_factor=_BANDWIDTH[name],
        base_s=base_s,
        far_base_s=far_base_s,
        wire_bytes=_WIRE[name],
    )
