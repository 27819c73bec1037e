"""In-switch collectives: the NVSwitch reduces and multicasts (NVLink SHARP)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from desim.network.collectives.tree import add_double_tree
from desim.network.loads import Loads
from desim.network.protocols import NVLS_STEPS

if TYPE_CHECKING:
    from desim.network.loads import Profile
    from desim.network.places import Places


def all_reduce(places: Places) -> Profile:
    """Reduce in the switch and multicast back; between islands a double tree per rail.

    Each of k members pulls its 1/k reduced (the switch reads the whole input of every member) and
    multicasts it (every member receives the whole result): 1 + 1/k out and in, instead of the
    ring's 2 (k - 1) / k (NVLink SHARP; Klenk et al. 2020, "An in-network architecture").
    """
    return _nvls(places, whole_out=1, whole_in=1, across=True)


def all_gather(places: Places) -> Profile:
    """Each member multicasts its block: 1/n out, the whole result in."""
    return _nvls(places, whole_out=0, whole_in=1)


def reduce_scatter(places: Places) -> Profile:
    """Each member pulls its block reduced by the switch: the whole input out, 1/n in."""
    return _nvls(places, whole_out=1, whole_in=0)


def _nvls(places: Places, whole_out: int, whole_in: int, across: bool = False) -> Profile:
    """A part's member moves the whole size where told, and its own block otherwise or besides."""
    assert across or places.alone, "an in-switch gather or scatter stays inside one NVLink domain"
    system = places.topology.system
    # Capacities hold the efficiency of rings; in-switch operations have their own.
    scale = system.nvlink_efficiency / system.nvls_efficiency
    block = scale / places.part_size * (places.part_size > 1)
    whole = scale * (places.part_size > 1)
    loads = Loads(places.topology, places.num_groups)
    out = places.per_member(whole_out * whole + whole_in * block)
    into = places.per_member(whole_in * whole + whole_out * block)
    places.add_local(loads, out, into)
    near_s = (places.widest > 1) * (NVLS_STEPS * system.nvlink_latency_s)
    far_s = np.zeros(places.num_groups)
    sms = system.device.communication.nvls_sms if places.size > 1 else 0
    if not places.alone:
        far_s = add_double_tree(places, loads)
        sms = max(sms, places.sms())
    return loads.profile(near_s, far_s, sms, "nvls")
