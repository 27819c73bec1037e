"""Collective algorithms: one file per family, one function per collective, one table of names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from desim.network.collectives import all_to_all, hierarchical, nvls, ring, shift, tree
from desim.network.places import places_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from desim.network.loads import Profile
    from desim.network.places import Places
    from desim.network.topology import Topology

#: collective -> algorithm -> profile of groups that use it
ALGORITHMS: dict[str, dict[str, Callable[[Places], Profile]]] = {
    "all_reduce": {
        "ring": ring.all_reduce,
        "tree": tree.all_reduce,
        "hierarchical": hierarchical.all_reduce,
        "nvls": nvls.all_reduce,
    },
    "all_gather": {
        "ring": ring.all_gather,
        "tree": tree.all_gather,
        "hierarchical": hierarchical.all_gather,
        "nvls": nvls.all_gather,
    },
    "reduce_scatter": {
        "ring": ring.reduce_scatter,
        "tree": tree.reduce_scatter,
        "hierarchical": hierarchical.reduce_scatter,
        "nvls": nvls.reduce_scatter,
    },
    "all_to_all": {"pairwise": all_to_all.pairwise, "two_level": all_to_all.two_level},
    "shift": {"pairs": shift.pairs},
    "broadcast": {"ring": ring.broadcast},
    "push": {"copies": shift.copies, "direct": all_to_all.copies},
}

#: What NCCL itself has; the others exist in frameworks and are taken when a policy names them.
NCCL_ALGORITHMS = ("ring", "tree", "nvls", "pairwise")


def available(
    topology: Topology, n: int, members: NDArray[np.int64], collective: str | None = None
) -> list[str]:
    """Algorithms that make sense for groups of `n` members, in the order of the table.

    A name holds for all groups (rows of `members`). `collective` leaves only its own, and leaves
    out what it cannot do: an in-switch gather across domains, and a tree (PAT) gather of several
    members per domain (NCCL 2.23 and later has it for one rank per node).
    """
    assert members.shape[1] == n, "members has a row per group"
    places = places_of(topology, members)
    spans = bool((places.num_parts > 1).all())
    several = bool((places.part_size > 1).all())
    switched = topology.system.nvls and topology.shape.local == "nvlink" and several
    gathers = collective in ("all_gather", "reduce_scatter")
    possible = {
        "ring": True,
        "tree": spans and not (gathers and bool((places.widest > 1).any())),
        "hierarchical": spans and several,
        "nvls": switched and not (gathers and not places.alone),
        "pairwise": True,
        "two_level": spans and several,
    }
    names = possible if collective is None else ALGORITHMS[collective]
    return [name for name in names if possible[name]]
