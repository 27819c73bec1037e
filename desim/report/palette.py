"""Colours and words shared by the figures; the colours stay apart for colour-blind readers."""

from __future__ import annotations

#: Category of time -> (words, colour).
CATEGORIES: dict[str, tuple[str, str]] = {
    "compute": ("compute", "#2f6db3"),
    "contention": ("contention", "#882255"),
    "exposed_tp": ("exposed tp", "#e69f00"),
    "exposed_cp": ("exposed cp", "#f0d44a"),
    "exposed_ep": ("exposed ep", "#d55e00"),
    "exposed_dp": ("exposed dp", "#cc79a7"),
    "exposed_pp": ("exposed pp", "#7b5cab"),
    "exposed_host": ("exposed host copy", "#8a8428"),
    "waiting": ("waiting", "#8f98a3"),
    "bubble": ("bubble", "#cdd3da"),
    "optimizer": ("optimizer", "#0f7f5c"),
    "launch": ("launch", "#56b4e9"),
    "other": ("other", "#4a4a4a"),
}
#: Phase of a kernel -> colour on the timeline.
PHASES: dict[str, str] = {
    "forward": "#2f6db3",
    "recompute": "#a9c6e8",
    "backward": "#6fc3b2",
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
#: Colours of memory owners, in the order of their size at the peak.
OWNERS = (
    "#2f6db3", "#e69f00", "#6fc3b2", "#cc79a7", "#7b5cab", "#d55e00", "#b8c24a", "#8f98a3",
)  # fmt: skip


def words(category: str) -> str:
    """Return a category of time as it is written for people."""
    return CATEGORIES[category][0] if category in CATEGORIES else category.replace("_", " ")


def colour(category: str) -> str:
    """Return the colour of a category of time."""
    return CATEGORIES[category][1] if category in CATEGORIES else "#4a4a4a"
