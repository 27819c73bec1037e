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
    """How a protocol's latency and bandwidth compare with those of Simple."""

    name: str
    latency_factor: float
    bandwidth_factor: float


#: NCCL's protocols. Latencies: ring entries of the table hwLat in NCCL's src/graph/tuning.cc for
#: NVLink (LL 0.6, LL128 1.9, Simple 3.4 us) and network (2.7, 4.0, 14 us); the factor of LL is the
#: larger of 0.18 and 0.19, that of LL128 the larger of 0.56 and 0.29. Bandwidths: LL128 carries 120
#: bytes of data in 128; LL carries 4 in 8, and the same file limits it further, to 1/3.8 in trees
#: and to llMaxBws in rings (Hopper: 87.7 GB/s in one node, 22.5 in two): about a quarter.
PROTOCOLS = (
    Protocol("LL", 0.19, 0.25),
    Protocol("LL128", 0.56, 120 / 128),
    Protocol("Simple", 1.0, 1.0),
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

    Time alone is latency x factor + size x seconds per byte / bandwidth factor. Equal times go to
    the first algorithm of `profiles`, then to the first protocol of the table.
    """
    names = tuple(profiles)
    options = [
        (
            index,
            number,
            profile.latency_s * protocol.latency_factor,
            size_bytes * profile.seconds_per_byte / protocol.bandwidth_factor,
        )
        for index, profile in enumerate(profiles.values())
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
