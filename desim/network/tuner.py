"""The tuner: algorithm and protocol by size and group, as NCCL chooses them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from desim.network.protocols import NAMES

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from desim.network.loads import Profile


@dataclass(frozen=True, slots=True)
class Choice:
    """What the tuner takes for each group.

    `algorithm` indexes `names`, `protocol` indexes `desim.network.protocols.NAMES`. `latency_s` and
    `seconds_per_byte` are those of the chosen algorithm with the chosen protocol.
    """

    algorithm: NDArray[np.int8]
    names: tuple[str, ...]
    protocol: NDArray[np.int8]
    latency_s: NDArray[np.float64]
    seconds_per_byte: NDArray[np.float64]


def choose(
    profiles: dict[str, Profile], size_bytes: float, protocols: Collection[str] = NAMES
) -> Choice:
    """Take the algorithm and protocol, one of `protocols`, that are fastest alone for every group.

    Time alone is the protocol's latency + size x its seconds per byte; slices that a chain passes
    on take time but are not foreseen. Equal times go to the first
    algorithm of `profiles`, then to its first protocol.
    """
    names = tuple(profiles)
    options = [
        (index, NAMES.index(protocol.name), protocol, profile)
        for index, profile in enumerate(profiles.values())
        for protocol in profile.protocols
        if protocol.name in protocols
    ]
    latency_s = np.stack(
        [protocol.latency_s(profile, size_bytes) for _, _, protocol, profile in options]
    )
    per_byte_s = np.stack(
        [protocol.seconds_per_byte(profile) for _, _, protocol, profile in options]
    )
    expected_s = np.stack([protocol.expected_s(profile) for _, _, protocol, profile in options])
    best = np.argmin(expected_s + size_bytes * per_byte_s, axis=0)
    column = np.arange(latency_s.shape[1])
    return Choice(
        algorithm=np.array([option[0] for option in options], np.int8)[best],
        names=names,
        protocol=np.array([option[1] for option in options], np.int8)[best],
        latency_s=latency_s[best, column],
        seconds_per_byte=per_byte_s[best, column],
    )
