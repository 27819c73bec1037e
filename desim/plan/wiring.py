"""Wiring: the groups of a job and how each collective of its programs loads the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from desim.network.collectives import NCCL_ALGORITHMS, available
from desim.network.places import places_of
from desim.network.profile import Profile, collective_profile, send_profile, thinned
from desim.network.protocols import NAMES
from desim.network.tuner import choose
from desim.plan.tables import FAMILY, SLOT, SLOTS
from desim.spec.loads import nodes_reached
from desim.spec.workload import Transformer

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from desim.network.topology import Topology
    from desim.plan.mesh import Mesh
    from desim.plan.tables import CommOp, Tables
    from desim.spec.scenario import Scenario

#: Device-memory traffic of a member per byte that crosses its link: what is sent is read, what is
#: received is written, and a reduction reads its operand as well.
_MEMORY_TRAFFIC = {
    "all_gather": 2.0,
    "all_to_all": 2.0,
    "send_recv": 1.0,
    "shift": 2.0,
    "push": 2.0,
    "broadcast": 2.0,
    "reduce_scatter": 3.0,
    "all_reduce": 2.5,
}

#: Groups by which experts are shared -> axis of the experts' own layout of the ranks.
_EXPERT_AXIS = {"ep": "ep", "etp": "tp", "edp": "dp"}

_LIGHT = 0.01

#: What NCCL sends without a choice of algorithm, with the name of its only one.
_MESSAGES = {"send_recv": "send_recv", "shift": "pairs", "push": "copies"}


@dataclass(frozen=True, slots=True, eq=False)
class Use:
    """How one collective of the programs uses the network.

    `profile` indexes `Wiring.profiles`. `latency_s` is the latency of every group of the family
    with the chosen protocol, `near_seconds_per_byte` its time per byte inside nodes or NVLink
    domains and `far_` between them. Links inside carry the profile's loads times `near_wire_bytes`,
    those between times `far_wire_bytes`: what the protocol sends for a byte. `memory_traffic` is
    device-memory bytes per byte through the links. A `light` collective's bytes take under a
    hundredth of its latency: they are paid as latency and
    load no links, so that a norm of four bytes does not tell the positions in a tree apart.
    """

    family: str
    profile: int
    algorithm: str
    protocol: str
    latency_s: NDArray[np.float64]
    near_seconds_per_byte: NDArray[np.float64]
    far_seconds_per_byte: NDArray[np.float64]
    near_wire_bytes: float
    far_wire_bytes: float
    memory_traffic: float
    light: bool

    @property
    def seconds_per_byte(self) -> NDArray[np.float64]:
        """Time per byte of every group with nothing beside it."""
        return np.maximum(self.near_seconds_per_byte, self.far_seconds_per_byte)


@dataclass(frozen=True, slots=True)
class Wiring:
    """Groups numbered over all families, with their profiles.

    `members[family]` has a row per group. `group_of[slot, rank]` is the group that a rank meets
    through a slot, -1 for none. `first[family]` is the family's first group.
    """

    topology: Topology
    members: dict[str, NDArray[np.int64]]
    first: dict[str, int]
    group_of: NDArray[np.int64]
    profiles: tuple[Profile, ...]
    profile_family: tuple[str, ...]
    uses: tuple[Use, ...]
    notes: tuple[str, ...]

    @property
    def num_groups(self) -> int:
        """Groups of all families."""
        return sum(len(rows) for rows in self.members.values())

    @property
    def loading(self) -> list[int]:
        """Numbers of the profiles that some collective loads links with."""
        return sorted({use.profile for use in self.uses if not use.light})

    def family_of(self, group: int) -> str:
        """Family that a group number belongs to."""
        return max((f for f in self.first if self.first[f] <= group), key=self.first.__getitem__)


def wire(mesh: Mesh, topology: Topology, tables: Tables, scenario: Scenario, shard: int) -> Wiring:
    """Find the groups that the collectives in `tables` need and price each of them.

    Policies of the `scenario` pin algorithms and protocols and say how chunks of tensor-parallel
    collectives and rows for experts travel. `shard` are the data-parallel ranks that share one copy
    of the sharded states, or of the parameters that they keep between passes.
    """
    comms = list(tables.comms)
    families = [family for family in dict.fromkeys(FAMILY[SLOTS[c.slot]] for c in comms)]
    members = {family: _members(mesh, family, shard) for family in families}
    first, at = {}, 0
    for family, rows in members.items():
        first[family] = at
        at += len(rows)
    pricer = _Pricer(topology, members, scenario)
    uses = tuple(pricer.use(comm) for comm in comms)
    return Wiring(
        topology=topology,
        members=members,
        first=first,
        group_of=_group_of(mesh, members, first),
        profiles=tuple(pricer.profiles),
        profile_family=tuple(pricer.families),
        uses=uses,
        notes=tuple(dict.fromkeys(pricer.notes)),
    )


def _members(mesh: Mesh, family: str, shard: int) -> NDArray[np.int64]:
    ranks = np.arange(mesh.num_ranks, dtype=np.int64)
    if family == "world":
        return ranks[None, :]
    if family == "dp":
        return mesh.groups("cp", "dp")
    if family in ("cp_inside", "cp_across"):
        return _cut(mesh.groups("cp"), mesh.context_inside, replicas=family == "cp_across")
    if family in _EXPERT_AXIS:
        return (mesh.experts or mesh).groups(_EXPERT_AXIS[family])
    if family in ("shard", "replica"):
        return _cut(mesh.groups("cp", "dp"), shard, replicas=family == "replica")
    if family == "embedding":
        stage = mesh.coordinate("pp")
        last = mesh.sizes["pp"] - 1
        return np.stack([ranks[stage == 0], ranks[stage == last]], axis=1)
    if family == "mirror":
        stage, last = mesh.coordinate("pp"), mesh.sizes["pp"] - 1
        pairs = [
            (ranks[stage == s], ranks[stage == last - s]) for s in range(mesh.sizes["pp"] // 2)
        ]
        return np.concatenate([np.stack(pair, axis=1) for pair in pairs])
    if family in ("stage", "amax"):
        return mesh.groups("tp", "cp", "ep", "dp")
    if family.startswith("send"):
        shift = 1 if family in ("send_forward", "send_backward_return") else -1
        return np.stack([ranks, mesh.neighbour("pp", shift)], axis=1)
    return mesh.groups(family)


def _cut(rows: NDArray[np.int64], shard: int, *, replicas: bool) -> NDArray[np.int64]:
    """Cut groups into parts of `shard` neighbours; or the ranks that are at one place of each."""
    parts = rows.reshape(len(rows), -1, shard)
    if replicas:
        return parts.transpose(0, 2, 1).reshape(-1, parts.shape[1])
    return parts.reshape(-1, shard)


def _group_of(
    mesh: Mesh, members: dict[str, NDArray[np.int64]], first: dict[str, int]
) -> NDArray[np.int64]:
    result = np.full((len(SLOTS), mesh.num_ranks), -1, dtype=np.int64)
    for family, rows in members.items():
        numbers = first[family] + np.arange(len(rows))
        if family.startswith("send"):
            result[SLOT[family], rows[:, 0]] = numbers
            result[SLOT[family.replace("send", "recv")], rows[:, 1]] = numbers
        else:
            result[SLOT[family], rows] = numbers[:, None]
    return result


class _Pricer:
    """Chooses an algorithm per collective and makes each needed profile once.

    The tuner decides for a whole family on the group that spans most islands (nodes or NVLink
    domains), among the algorithms that exist for all of its groups. NCCL decides on the numbers of
    ranks and nodes, which the groups of a mesh axis share unless some straddle an island's edge.
    """

    def __init__(
        self,
        topology: Topology,
        members: dict[str, NDArray[np.int64]],
        scenario: Scenario,
    ) -> None:
        policies = scenario.policies
        direct = policies.overlap.tensor_exchange == "direct"
        self._topology = topology
        self._members = members
        self._pins = policies.collectives
        self._messages = _MESSAGES | {"push": "direct"} if direct else _MESSAGES
        self._experts = policies.experts
        model = scenario.workload.model
        self._moe = model.moe if isinstance(model, Transformer) else None
        self.profiles: list[Profile] = []
        self.families: list[str] = []
        self.notes: list[str] = []
        self._numbers: dict[tuple[str, str, str], int] = {}
        self._samples: dict[tuple[str, str, str], Profile] = {}
        self._names: dict[tuple[str, str], list[str]] = {}

    def use(self, comm: CommOp) -> Use:
        """Price one collective."""
        family = FAMILY[SLOTS[comm.slot]]
        if comm.collective in self._messages:
            only = self._messages[comm.collective]
            candidates = {only: self.profiles[self._profile(family, comm.collective, only)]}
        else:
            candidates = self._candidates(family, comm)
        protocols = self._protocols(family, comm.collective, candidates)
        choice = choose(candidates, float(comm.size_bytes), protocols)
        algorithm = choice.names[int(choice.algorithm[0])]
        number = self._profile(family, comm.collective, algorithm)
        profile = self.profiles[number]
        protocol = profile.protocol(NAMES[int(choice.protocol[0])])
        latency_s = protocol.latency_s(profile, float(comm.size_bytes))
        near_s, far_s = (
            protocol.near_seconds_per_byte(profile),
            protocol.far_seconds_per_byte(profile),
        )
        bytes_s = float(comm.size_bytes) * np.maximum(near_s, far_s)
        return Use(
            family=family,
            profile=number,
            algorithm=algorithm,
            protocol=protocol.name,
            latency_s=latency_s,
            near_seconds_per_byte=near_s,
            far_seconds_per_byte=far_s,
            near_wire_bytes=protocol.near_wire_bytes,
            far_wire_bytes=protocol.far_wire_bytes,
            memory_traffic=_MEMORY_TRAFFIC[comm.collective],
            light=bool((bytes_s <= _LIGHT * latency_s).all()),
        )

    def _candidates(self, family: str, comm: CommOp) -> dict[str, Profile]:
        """Profiles of the algorithms to choose from: the pinned one, or NCCL's own."""
        pin = self._pins.algorithm(comm.collective, family)
        names = self._available(family, comm.collective)
        if self._node_first(family, comm.collective):
            names = names[-1:]  # two levels where there are two
        elif pin in names:
            names = [pin]
        else:
            if pin != "auto":
                self.notes.append(
                    f"policies.collectives.{comm.collective}: {pin} does not exist for the groups"
                    f" of {family} ({self._members[family].shape[1]} ranks); the tuner chooses"
                    " there"
                )
            names = [name for name in names if name in NCCL_ALGORITHMS]
        return {name: self._sample(family, comm.collective, name) for name in names}

    def _protocols(
        self, family: str, collective: str, candidates: dict[str, Profile]
    ) -> Collection[str]:
        """Names of the protocols to choose from: the pinned one, or all."""
        pin = self._pins.protocol(collective, family)
        if pin == "auto":
            return NAMES
        wanted = [name for name in NAMES if name.lower() == pin]
        known = {protocol.name for each in candidates.values() for protocol in each.protocols}
        if known.isdisjoint(wanted):
            self.notes.append(
                f"policies.collectives.protocols.{collective}: {pin} does not exist for"
                f" {', '.join(candidates)}; the tuner chooses there"
            )
            return NAMES
        return wanted

    def _available(self, family: str, collective: str) -> list[str]:
        key = (family, collective)
        if key not in self._names:
            rows = self._members[family]
            self._names[key] = available(self._topology, rows.shape[1], rows, collective)
        return self._names[key]

    def _sample(self, family: str, collective: str, algorithm: str) -> Profile:
        key = (family, collective, algorithm)
        if key not in self._samples:
            self._samples[key] = self._made(self._widest(family), *key)
        return self._samples[key]

    def _made(
        self, rows: NDArray[np.int64], family: str, collective: str, algorithm: str
    ) -> Profile:
        profile = collective_profile(self._topology, rows, collective, algorithm)
        if algorithm != "two_level" or not self._node_first(family, collective):
            return profile
        assert self._moe is not None, "expert groups have experts"
        parts = places_of(self._topology, rows).num_parts
        reached = [nodes_reached(self._moe, n, self._experts.max_nodes) for n in parts.tolist()]
        return thinned(self._topology, profile, np.array(reached) / self._moe.top_k)

    def _node_first(self, family: str, collective: str) -> bool:
        """Whether a row crosses once to each node that it is for."""
        return (family, collective, self._experts.dispatch) == ("ep", "all_to_all", "node_first")

    def _widest(self, family: str) -> NDArray[np.int64]:
        """The group of a family that spans most islands, as its only row."""
        rows = self._members[family]
        system = self._topology.system
        island = rows // max(system.nvlink_domain, system.devices_per_node)
        spans = (np.diff(island, axis=1) != 0).sum(axis=1)
        return rows[[int(np.argmax(spans))]]

    def _profile(self, family: str, collective: str, algorithm: str) -> int:
        key = (family, collective, algorithm)
        if key not in self._numbers:
            rows = self._members[family]
            if collective == "send_recv":
                profile = send_profile(self._topology, rows[:, 0], rows[:, 1])
            elif len(rows) == 1:
                profile = self._sample(*key)
            else:
                profile = self._made(rows, *key)
            self._numbers[key] = len(self.profiles)
            self.profiles.append(profile)
            self.families.append(family)
        return self._numbers[key]
