"""What tasks and links are called where people read them."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from desim.analyze.links import busiest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from desim.record import LinkClass, Record

#: Kind of link without its direction -> what it is, and how the numbers in its name are read.
_WHAT = {
    "nvlink": ("NVLink", "rank {}"),
    "pcie": ("PCIe", "rank {}"),
    "socket": ("socket", "node {} socket {}"),
    "nic": ("NIC", "node {} rail {}"),
    "leaf": ("leaf", "unit {} rail {}"),
    "spine": ("spine", "level {} pod {}"),
    "host_memory": ("host memory", "node {}"),
}
_MAX_OF_KIND = 16
_PAIRS = {"out": "in", "in": "out", "up": "down", "down": "up"}
#: In the name of a group, as `dp of 32 (x8)`.
_GROUP_SIZE = re.compile(r" of (\d+) \(")


def group_size(group: str) -> int:
    """Return how many ranks a group of `Record.groups` has, 0 where its name does not say."""
    match = _GROUP_SIZE.search(group)
    return int(match[1]) if match else 0


@dataclass(frozen=True, slots=True)
class LinkTitle:
    """What a class of links is, which way it carries, which one stands for it, how many it has."""

    what: str
    way: str
    where: str
    count: int

    def __str__(self) -> str:
        """Return the whole title in a line."""
        head = f"{self.what} {self.way}".rstrip()
        where = f", {self.where}" if self.where else ""
        return f"{head}{where} (x{self.count})"


def task_title(name: str, kind: str) -> str:
    """Return the title of a collective: what is sent and how, unless the name says so already."""
    if kind in ("send_recv", "") or name.split()[-1].replace("-", "_") in kind:
        return name
    return f"{name} {kind.replace('_', '-')}"


def link_titles(record: Record) -> dict[str, LinkTitle]:
    """Return the title of every link class by its name; in a pipeline it says which stage."""
    classes = Counter(c.stage for c in record.classes)
    alone = {c.representative: c.stage for c in record.classes if classes[c.stage] == 1}
    return {link.name: _title(link, alone if len(classes) > 1 else {}) for link in record.links}


def _title(link: LinkClass, stages: dict[int, int]) -> LinkTitle:
    """Return a link's title; `stages` says of the ranks that stand for a stage for which."""
    what, _, way = link.kind.rpartition("_")
    if way not in _PAIRS:
        what, way = link.kind, ""
    if what not in _WHAT:
        return LinkTitle(link.name, "", "", link.count)
    title, pattern = _WHAT[what]
    numbers = [int(text) for text in re.findall(r"\d+", link.name)]
    parts = pattern.split("{}")
    where = "".join(f"{part}{n}" for part, n in zip(parts, numbers, strict=False))
    if what in ("nvlink", "pcie") and numbers and numbers[0] in stages:
        where = f"stage {stages[numbers[0]]}"
    return LinkTitle(title, way, where, link.count)


def other_way(link: LinkClass) -> str:
    """Return the name of the link that carries the other way; empty where there is none."""
    kind, _, way = link.kind.rpartition("_")
    if way not in _PAIRS:
        return ""
    return link.name.replace(link.kind, f"{kind}_{_PAIRS[way]}", 1)


def both_ways(title: LinkTitle) -> LinkTitle:
    """Return the title of a link and the one that carries the other way together."""
    ways = "up/down" if title.way in ("up", "down") else "in/out"
    return LinkTitle(title.what, ways, title.where, title.count)


def titled_links(record: Record) -> Iterator[tuple[str, LinkClass]]:
    """Yield classes of links that carried anything, by kind and place, each with its title.

    Of a kind with many the busiest are chosen. Two that carry the same each way are one.
    """
    titles = link_titles(record)
    links = _busiest_of_kinds(record)
    done: set[str] = set()
    for name, link in links.items():
        if name in done:
            continue
        other = links.get(other_way(link))
        if other is not None and _alike(link, other):
            done.add(other.name)
            yield str(both_ways(titles[name])), link
        else:
            yield str(titles[name]), link


def _busiest_of_kinds(record: Record) -> dict[str, LinkClass]:
    kinds: dict[str, list[str]] = {}
    for use in busiest(record):
        kinds.setdefault(use.link.kind, []).append(use.link.name)
    chosen = {name for names in kinds.values() for name in names[:_MAX_OF_KIND]}
    return {link.name: link for link in record.links if link.name in chosen}


def _alike(link: LinkClass, other: LinkClass) -> bool:
    """Whether two links carry the same at every moment."""
    return (
        link.count == other.count
        and len(link.time_ps) == len(other.time_ps)
        and np.array_equal(link.time_ps, other.time_ps)
        and np.allclose(
            link.rate_bytes_per_s,
            other.rate_bytes_per_s,
            rtol=0,
            atol=1e-6 * link.capacity_bytes_per_s,
        )
    )
