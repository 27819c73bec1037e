"""The tuner: algorithm and protocol by size and group, as NCCL chooses them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from desim.network.loads import Profile


@dataclass(frozen=True, slots=True)
class Protocol:
    """How a protocol's latency and bandwidth compare with those of Simple.

    `near_factor` and `far_factor` hold for steps inside and between nodes or NVLink domains,
    `ring_base` and `tree_base` are what a collective pays once, whatever its size and group, in
    Simple steps inside the domain.
    """

    name: str
    near_factor: float
    far_factor: float
    bandwidth_factor: float
    ring_base: float
    tree_base: float

    def base(self, algorithm: str) -> float:
        """Steps that a collective of `algorithm` pays once; in-switch kernels count theirs so."""
        if algorithm == "nvls":
            return 0.0
        return self.tree_base if algorithm == "tree" else self.ring_base

    def latency_s(self, algorithm: str, profile: Profile) -> NDArray[np.float64]:
        """Latency of one collective on each group of a profile."""
        steps_s = profile.near_s * self.near_factor + profile.far_s * self.far_factor
        return steps_s + self.base(algorithm) * profile.step_s * (profile.latency_s > 0)


#: NCCL's protocols, from its src/graph/tuning.cc. Steps: ring entries of hwLat for NVLink (LL 0.6,
#: LL128 1.9, Simple 3.4 us) and network (2.7, 4.0, 14 us). Paid once: baseLat (ring 6.6, 14.0, 8.4,
#: tree 6.8, 14.0, 8.4 us), here in steps of 3.4 us, so that a device with slower steps pays more:
#: validation/collectives.csv has 6 to 8 us on H100 (steps of 3 us), 9 to 12 on A100 (4).
#: Bandwidths: LL128 carries 120 bytes of data in 128; LL carries 4 in 8, and the same file limits
#: it further, to 1/3.8 in trees and to llMaxBws in rings (Hopper: 87.7 GB/s in one node, 22.5 in
#: two): about a quarter.
PROTOCOLS = (
    Protocol("LL", 0.6 / 3.4, 2.7 / 14, 0.25, 6.6 / 3.4, 6.8 / 3.4),
    Protocol("LL128", 1.9 / 3.4, 4.0 / 14, 120 / 128, 14.0 / 3.4, 14.0 / 3.4),
    Protocol("Simple", 1.0, 1.0, 1.0, 8.4 / 3.4, 8.4 / 3.4),
)


@dataclass(frozen=True, slots=True)
class Choice:
    """What the tuner takes for each group.

    `algorithm` indexes `names`, `protocol` indexes `PROTOCOLS`. `latency_s` is that of the chosen
    protocol; the loads of the chosen profile are multiplied by `scale`.
    """

    algorithm: NDArray[np.int8]
    names: tuple[str, ...]
    protocol: NDArray[np.int8]
    latency_s: NDArray[np.float64]
    scale: NDArray[np.float64]


def choose(profiles: dict[str, Profile], size_bytes: float) -> Choice:
    """Take the algorithm and protocol that are fastest alone for every group.

    Time alone is the protocol's latency + size x seconds per byte / bandwidth factor. Equal times
    go to the first algorithm of `profiles`, then to the first protocol of the table.
    """
    names = tuple(profiles)
    options = [
        (
            index,
            number,
            protocol.latency_s(name, profile),
            size_bytes * profile.seconds_per_byte / protocol.bandwidth_factor,
        )
        for index, (name, profile) in enumerate(profiles.items())
        for number, protocol in enumerate(PROTOCOLS)
        if protocol.name in profile.protocols
    ]
    latency_s = np.stack([option[2] for option in options])
    best = np.argmin(latency_s + np.stack([option[3] for option in options]), axis=0)
    protocol_of = np.array([option[1] for option in options], np.int8)[best]
    factors = np.array([protocol.bandwidth_factor for protocol in PROTOCOLS])
    return Choice(
        algorithm=np.array([option[0] for option in options], np.int8)[best],
        names=names,
        protocol=protocol_of,
        latency_s=latency_s[best, np.arange(latency_s.shape[1])],
        scale=1.0 / factors[protocol_of],
    )
