"""Colours and words shared by the figures; the colours stay apart for colour-blind readers."""

from __future__ import annotations

from typing import NamedTuple


class Category(NamedTuple):
    """A category of time as it is shown: short words, colour, and what it means."""

    words: str
    colour: str
    meaning: str


#: Category of time -> how it is shown.
CATEGORIES: dict[str, Category] = {
    "compute": Category("compute", "#2f6db3", "kernels run"),
    "contention": Category("contention", "#882255", "kernels run longer for what runs beside them"),
    "exposed_tp": Category("exposed tp", "#e69f00", ""),
    "exposed_cp": Category("exposed cp", "#f0d44a", ""),
    "exposed_ep": Category("exposed ep", "#d55e00", ""),
    "exposed_dp": Category("exposed dp", "#cc79a7", ""),
    "exposed_pp": Category("exposed pp", "#7b5cab", ""),
    "exposed_host": Category("exposed host copy", "#8a8428", ""),
    "waiting": Category("waiting", "#8f98a3", "for a rank that is later than the schedule says"),
    "bubble": Category("bubble", "#cdd3da", "the schedule has no task ready"),
    "optimizer": Category("optimizer", "#0f7f5c", "the parameters are updated"),
    "launch": Category("launch", "#56b4e9", "a task is ready, but the host has not issued it"),
    "other": Category("other", "#4a4a4a", "none of these"),
}
EXPOSED_MEANING = "communicating while nothing is computed"
#: Phase of a kernel -> colour on the timeline.
PHASES: dict[str, str] = {
    "forward": "#2f6db3",
    "recompute": "#a9c6e8",
    "backward": "#5fbaa6",
    "weight gradient": "#a6d5c9",
    "gradients": "#b8c24a",
    "optimizer": "#0f7f5c",
    "parameters": "#b8c24a",
}
#: Row of communication on the timeline -> colour.
LANES: dict[str, str] = {
    "tp": "#e69f00",
    "cp": "#f0d44a",
    "ep": "#d55e00",
    "dp": "#cc79a7",
    "pp": "#7b5cab",
    "host copy": "#8a8428",
}
WAIT = "#d5dae0"
#: Memory owner -> colour, so that it has the same on every rank; others take those left over.
OWNERS: dict[str, str] = {
    "parameters": "#2f6db3",
    "gathered parameters": "#8fb6e0",
    "gradients": "#e69f00",
    "gathered gradients": "#f3cf80",
    "optimizer": "#0f7f5c",
    "activations": "#5fbaa6",
    "workspace": "#cc79a7",
    "embedding tables": "#7b5cab",
}
_MORE_OWNERS = ("#d55e00", "#b8c24a", "#8f98a3", "#56b4e9")


def words(category: str) -> str:
    """Return a category of time as it is written for people."""
    return CATEGORIES[category].words if category in CATEGORIES else category.replace("_", " ")


def colour(category: str) -> str:
    """Return the colour of a category of time."""
    return CATEGORIES[category].colour if category in CATEGORIES else "#4a4a4a"


def owner_colour(owner: str, number: int) -> str:
    """Return the colour of a memory owner; `number` tells owners without one apart."""
    return OWNERS.get(owner, _MORE_OWNERS[number % len(_MORE_OWNERS)])


def shade(colour: str, number: int, of: int) -> str:
    """Return the shade of a colour for item `number` of `of`: the first is full, the last pale."""
    white = 0.5 * number / max(1, of - 1)
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(part + (255 - part) * white):02x}" for part in parts)


def ink(colour: str) -> str:
    """Return black or white, whichever reads better on a colour (ITU-R BT.601 luma)."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#ffffff" if 0.299 * red + 0.587 * green + 0.114 * blue < 150 else "#1c2530"
