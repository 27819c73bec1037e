"""The links of a run as the summary and the page list them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from desim.analyze.links import busiest
from desim.export.titles import LinkTitle, both_ways, link_titles, other_way

if TYPE_CHECKING:
    from desim.analyze.links import LinkUse
    from desim.record import LinkClass, Record

_SAME_MEAN, _SAME_PEAK = 0.002, 0.02


@dataclass(frozen=True, slots=True)
class LinkRow:
    """A class of links, or one and the other way of it: utilisation as shares of capacity."""

    title: LinkTitle
    links: tuple[LinkClass, ...]
    mean: float
    peak: float

    @property
    def numbers(self) -> list[int]:
        """Return the numbers in the place, by which rows are ordered."""
        return [int(word) for word in self.title.where.split() if word.isdigit()]


def link_rows(record: Record) -> list[LinkRow]:
    """Return the classes of links that carried anything, busiest first.

    The two ways of a link are one row where their use is about the same.
    """
    titles = link_titles(record)
    uses = {use.link.name: use for use in busiest(record)}
    rows: list[LinkRow] = []
    done: set[str] = set()
    for name, use in uses.items():
        if name in done:
            continue
        other = uses.get(other_way(use.link))
        if other is not None and other.link.name not in done and _about_same(use, other):
            done.add(other.link.name)
            peak = max(use.peak, other.peak)
            rows.append(LinkRow(both_ways(titles[name]), (use.link, other.link), use.mean, peak))
        else:
            rows.append(LinkRow(titles[name], (use.link,), use.mean, use.peak))
    # What is as busy to four digits stands in the order of places.
    return sorted(rows, key=lambda row: (-round(row.mean, 4), row.title.what, row.numbers))


def _about_same(one: LinkUse, other: LinkUse) -> bool:
    return (
        one.link.count == other.link.count
        and abs(one.mean - other.mean) < _SAME_MEAN
        and abs(one.peak - other.peak) < _SAME_PEAK
    )


def busiest_of_each_kind(rows: list[LinkRow]) -> list[LinkRow]:
    """Return the busiest row of every kind of link, busiest first."""
    found: dict[str, LinkRow] = {}
    for row in rows:
        found.setdefault(row.title.what, row)
    return list(found.values())
