"""Transfers: what each collective does to the representative links of a folded job."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from desim.engine.links import RATE_UNIT
from desim.plan.tables import FAMILY, SLOTS
from desim.record import GROUP_OF_LANE, LANES, PS_PER_S

if TYPE_CHECKING:
    from desim.plan.build import Plan
    from desim.plan.tables import CommOp
    from desim.plan.wiring import Use

#: Rates are kept in 64 bits as thousandths of a byte per second; 5 PB/s stands for any faster one.
_FASTEST_BYTES_PER_S = 5e15


@dataclass(frozen=True, slots=True, eq=False)
class Transfer:
    """One collective on the groups of one colour.

    `rate_bytes_per_s` is its rate alone. `uses` are (link colour, share of the link's capacity that
    all groups of the colour take at full speed); `limit` bounds the speed (share of the rate
    alone). Where nothing else can load its links, it takes `fixed_ps` in all, else -1.
    """

    number: int
    name: str
    size_bytes: int
    is_message: bool
    latency_ps: int
    rate_bytes_per_s: float
    uses: tuple[tuple[int, float], ...]
    limit: float
    fixed_ps: int
    sms: int
    memory_permille: int
    holds: bool
    """Whether it takes SMs or memory bandwidth from the kernels beside it."""
    weight: float = 1.0
    """Its share of full links, over that of others."""
    unhindered: Transfer | None = None
    """The same where no member computes when it begins; None where that makes no difference."""

    @property
    def alone_ps(self) -> int:
        """Duration with nothing beside it."""
        if not self.rate_bytes_per_s:
            return self.latency_ps
        return self.latency_ps + round(self.size_bytes / self.rate_bytes_per_s * PS_PER_S)


class TransferTable:
    """Makes the transfers of a plan, one per group colour and collective."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._wiring = plan.wiring
        self._folding = plan.folding
        self._comms = list(plan.context.tables.comms)
        self._sums, self._users = self._representative_loads()
        self._lanes = _lanes_of_slots(plan)
        self.transfers: list[Transfer] = []

    def _representative_loads(
        self,
    ) -> tuple[dict[tuple[int, int], dict[int, float]], dict[int, set[int]]]:
        """Load that each group colour puts on one link of each colour, by profile.

        Returns {(profile, group colour): {link colour: load}} and {link colour: group colours}.
        """
        folding, wiring = self._folding, self._wiring
        sums: dict[tuple[int, int], dict[int, float]] = {}
        users: dict[int, set[int]] = {}
        chosen = np.zeros(len(folding.links.of), dtype=bool)
        chosen[folding.links.first] = True
        for number in wiring.loading:
            profile = wiring.profiles[number]
            kept = np.flatnonzero(chosen[profile.link])
            group = profile.group[kept] + wiring.first[wiring.profile_family[number]]
            colour, link = folding.groups.of[group], folding.links.of[profile.link[kept]]
            pairs, at = np.unique(colour * folding.links.number + link, return_inverse=True)
            loads = np.bincount(at, profile.load[kept], len(pairs))
            for pair, load in zip(pairs.tolist(), loads.tolist(), strict=True):
                g, k = divmod(pair, folding.links.number)
                sums.setdefault((number, g), {})[k] = load
                users.setdefault(k, set()).add(g)
        return sums, users

    def make(self, comm_number: int, group: int) -> Transfer:
        """The transfer of a collective on the groups that behave like `group`."""
        comm = self._comms[comm_number]
        use = self._wiring.uses[comm_number]
        colour = int(self._folding.groups.of[group])
        local = group - self._wiring.first[use.family]
        rate, share = self._pace(comm, use, local)
        latency_s = float(use.latency_s[local])
        if use.light:
            latency_s += comm.size_bytes * float(use.seconds_per_byte[local])
        latency = round(latency_s * PS_PER_S)
        sms = self._wiring.profiles[use.profile].sms
        memory = self._memory(use, rate * share, local)
        uses = self._uses(use, colour, rate)
        transfer = Transfer(
            number=len(self.transfers),
            name=_name(comm, use),
            size_bytes=comm.size_bytes,
            is_message=comm.collective == "send_recv",
            latency_ps=latency,
            rate_bytes_per_s=rate,
            uses=uses,
            limit=1.0,
            fixed_ps=self._fixed(comm, colour, uses, rate, latency),
            sms=sms,
            memory_permille=memory,
            holds=bool(sms or memory),
            weight=self._weight(comm.slot),
        )
        self.transfers.append(transfer)
        if share == 1.0:
            return transfer
        fixed = self._fixed(comm, colour, uses, rate * share, latency)
        return replace(transfer, limit=share, fixed_ps=fixed, unhindered=transfer)

    def _weight(self, slot: int) -> float:
        """Weight of a slot's collectives on links that others load, too."""
        weights = self._plan.scenario.policies.resources.link_weights
        (lane,) = self._lanes[slot]
        return float(getattr(weights, GROUP_OF_LANE[LANES[lane]], 1.0))

    def _pace(self, comm: CommOp, use: Use, local: int) -> tuple[float, float]:
        """Rate of a collective alone, 0 where no bytes flow, and the share of it beside compute.

        Kernels beside it take SMs and memory bandwidth from the part inside the node, whose time
        per byte grows by 1 / `beside_compute`; NICs and switches between nodes go on as they were.
        """
        near, far = float(use.near_seconds_per_byte[local]), float(use.far_seconds_per_byte[local])
        per_byte = max(near, far)
        if not per_byte or comm.size_bytes <= 0 or use.light:
            return 0.0, 1.0
        rate = min(1.0 / per_byte, _FASTEST_BYTES_PER_S)
        if not comm.beside:
            return rate, 1.0
        beside = self._plan.scenario.cluster.system.device.communication.beside_compute
        return rate, min(per_byte / max(near / beside, far), 1.0)

    def _uses(self, use: Use, colour: int, rate: float) -> tuple[tuple[int, float], ...]:
        topology = self._wiring.topology
        capacity, outside = topology.capacity_bytes_per_s, topology.start("nic_out")
        first = self._folding.links.first
        loads = self._sums.get((use.profile, colour), {})
        if not rate:
            return ()
        wire = use.near_wire_bytes, use.far_wire_bytes
        return tuple(
            (k, load * wire[int(first[k]) >= outside] * rate / float(capacity[first[k]]))
            for k, load in sorted(loads.items())
            if load > 0
        )

    def _fixed(
        self,
        comm: CommOp,
        colour: int,
        uses: tuple[tuple[int, float], ...],
        rate: float,
        latency: int,
    ) -> int:
        """Duration where the links are this collective's own, else -1.

        They are where all groups that load them take their turn on one lane of a rank that all
        share: the group itself and the group of all ranks.
        """
        if not rate:
            return latency
        world = self._wiring.first.get("world", -1)
        world_colour = int(self._folding.groups.of[world]) if world >= 0 else -1
        alone = {colour, world_colour}
        if any(share > 1.0 + 1e-12 for _, share in uses):
            return -1
        slots = {comm.slot}
        for link, _ in uses:
            users = self._users[link]
            if not users <= alone:
                return -1
            if world_colour in users:
                slots.add(SLOTS.index("world"))
        if len(set().union(*(self._lanes.get(slot, set()) for slot in slots))) > 1:
            return -1
        return latency + -(-comm.size_bytes * PS_PER_S * RATE_UNIT // int(rate * RATE_UNIT + 0.5))

    def _memory(self, use: Use, rate: float, local: int) -> int:
        """Share of the device's memory bandwidth, in parts per thousand, that `rate` takes.

        It is that of the heaviest link of a member: bytes of the links that many members share are
        not all its own.
        """
        profile, topology = self._wiring.profiles[use.profile], self._wiring.topology
        device = topology.system.device
        rows = slice(*np.searchsorted(profile.group, [local, local + 1]))
        link, load = profile.link[rows], profile.load[rows]
        near = link < topology.start("socket_out")
        far = (link >= topology.start("nic_out")) & (link < topology.start("leaf_up"))
        heaviest = max(
            use.near_wire_bytes * float(load[near].max(initial=0.0)),
            use.far_wire_bytes * float(load[far].max(initial=0.0)),
        )
        usable = device.memory_bytes_per_s * device.kernels.memory_efficiency
        return min(round(rate * heaviest * use.memory_traffic / usable * 1000), 900)


def _lanes_of_slots(plan: Plan) -> dict[int, set[int]]:
    """Lanes on which the programs issue the collectives of each slot: one each.

    On two their order would follow run time, and members would meet for different collectives.
    """
    slots = np.array([c.slot for c in plan.context.tables.comms], dtype=np.int64)
    lanes: dict[int, set[int]] = {}
    for program in plan.programs:
        kept = program.comm >= 0
        pairs = slots[program.comm[kept]] * len(LANES) + program.lane[kept]
        for pair in np.flatnonzero(np.bincount(pairs)).tolist():
            slot, lane = divmod(pair, len(LANES))
            lanes.setdefault(slot, set()).add(lane)
    several = [SLOTS[slot] for slot, those in lanes.items() if len(those) > 1]
    assert not several, f"collectives of {several} are issued on more than one lane"
    return lanes


def _name(comm: CommOp, use: Use) -> str:
    return f"{FAMILY[SLOTS[comm.slot]]} {comm.collective} {use.algorithm} {use.protocol}"
