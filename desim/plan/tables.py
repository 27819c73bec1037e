"""Tables that every program of a run shares: names, kernels and collectives, each stored once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from desim.record import LANES

if TYPE_CHECKING:
    from desim.models.op import Op

LANE = {name: index for index, name in enumerate(LANES)}
COMPUTE = LANE["compute"]

#: How a rank takes part in a group. A send/recv pair is a group of two with a slot for each end.
#: A slot is a communicator: its collectives are issued on one lane, in the same order by all of
#: its members, as NCCL demands. What runs on two lanes needs two slots, even of the same ranks.
SLOTS = (
    "tp",
    "cp",
    "dp",
    "shard",
    "replica",
    "ep",
    "etp",
    "edp",
    "world",
    "embedding",
    "send_forward",
    "recv_forward",
    "send_backward",
    "recv_backward",
    "send_forward_return",
    "recv_forward_return",
    "send_backward_return",
    "recv_backward_return",
    "stage",
    "amax",
    "mirror",
    "cp_inside",
    "cp_across",
)
SLOT = {name: index for index, name in enumerate(SLOTS)}
#: Slot -> the family of groups it belongs to (both ends of a message share one).
FAMILY = {name: name.replace("recv", "send") for name in SLOTS}


class CommOp(NamedTuple):
    """A collective (or one end of a message) as programs refer to it.

    `beside` says that the policy lets it run beside compute, which costs it bandwidth.
    """

    slot: int
    collective: str
    size_bytes: int
    beside: bool


@dataclass(slots=True)
class Tables:
    """Interned names, kinds, kernels and collectives."""

    names: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    ops: dict[Op, int] = field(default_factory=dict)
    comms: dict[CommOp, int] = field(default_factory=dict)
    owners: dict[str, int] = field(default_factory=dict)

    def name(self, text: str) -> int:
        """Number of a task name."""
        return self.names.setdefault(text, len(self.names))

    def kind(self, text: str) -> int:
        """Number of a task kind."""
        return self.kinds.setdefault(text, len(self.kinds))

    def op(self, op: Op) -> int:
        """Number of a kernel."""
        return self.ops.setdefault(op, len(self.ops))

    def comm(self, comm: CommOp) -> int:
        """Number of a collective."""
        return self.comms.setdefault(comm, len(self.comms))

    def owner(self, text: str) -> int:
        """Number of a memory owner."""
        return self.owners.setdefault(text, len(self.owners))
