"""Collectives: which algorithm and protocol a policy pins, by collective and by group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from pydantic import model_validator

from desim.spec.base import Spec

AllReduce = Literal["auto", "ring", "tree", "hierarchical", "nvls"]
Gather = Literal["auto", "ring", "tree", "hierarchical", "nvls"]
AllToAll = Literal["auto", "pairwise", "two_level"]
ProtocolName = Literal["auto", "ll", "ll128", "simple"]
GroupName = Literal["tp", "cp", "dp", "shard", "replica", "ep", "etp", "edp"]


class Protocols(Spec):
    """NCCL's protocol per collective; `auto` lets the tuner choose.

    One word may stand for all of them, as NCCL_PROTO does.
    """

    all_reduce: ProtocolName = "auto"
    """Of all-reduces."""
    all_gather: ProtocolName = "auto"
    """Of all-gathers."""
    reduce_scatter: ProtocolName = "auto"
    """Of reduce-scatters."""
    broadcast: ProtocolName = "auto"
    """Of broadcasts, which are rings."""
    all_to_all: ProtocolName = "auto"
    """Of all-to-alls, which have no LL128."""
    send_recv: ProtocolName = "auto"
    """Of messages between stages, which have no LL128."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return dict.fromkeys(cls.model_fields, value) if isinstance(value, str) else value


class Pins(Spec):
    """Algorithm and protocol per collective; `auto` lets the tuner choose for size and group."""

    all_reduce: AllReduce = "auto"
    """Of all-reduces (`hierarchical` and `two_level` are those of frameworks)."""
    all_gather: Gather = "auto"
    """Of all-gathers."""
    reduce_scatter: Gather = "auto"
    """Of reduce-scatters."""
    all_to_all: AllToAll = "auto"
    """Of all-to-alls."""
    protocols: Protocols = Protocols()
    """Protocol of each, or one for all: `ll` 8 bytes of which 4 are data, `ll128`
    128 bytes of which 120 are, `simple` whole slices with a flag behind them."""


class Collectives(Pins):
    """Algorithm and protocol per collective, of all groups and of single ones.

    `auto` lets the tuner choose for size and group as NCCL does. The word `auto` may stand for the
    whole mapping.
    """

    groups: dict[GroupName, Pins] = {}
    """The same for one kind of group (a communicator) instead of all: `{dp: {all_gather: ring}}`;
    what it leaves at `auto` is as for all."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {} if value == "auto" else value

    def algorithm(self, collective: str, group: str) -> str:
        """Return the algorithm pinned for a collective of a group, or `auto`."""
        return self._pinned(group, lambda pins: getattr(pins, collective, "auto"))

    def protocol(self, collective: str, group: str) -> str:
        """Return the protocol pinned for it, or `auto`."""
        return self._pinned(group, lambda pins: getattr(pins.protocols, collective, "auto"))

    def _pinned(self, group: str, read: Callable[[Pins], str]) -> str:
        own = next((pins for name, pins in self.groups.items() if name == group), None)
        found = "auto" if own is None else read(own)
        return read(self) if found == "auto" else found
