"""A line on the terminal for what takes more than a second."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from desim.engine.play import Player

_AFTER_S = 1.0
_EVERY_S = 0.25
_BAR = 40
_NAME = 40  # characters of a scenario's name that the line has room for


class Progress:
    """Shows how far a run is, from a thread that only reads the player; silent unless `show`."""

    def __init__(self, name: str, *, show: bool) -> None:
        self._name = name[:_NAME]
        self._player: Player | None = None
        self._doing = "planning"
        self._done = threading.Event()
        self._drawn = False
        self._thread = threading.Thread(target=self._draw, daemon=True) if show else None

    def watch(self, player: Player) -> None:
        """Read progress from `player` from now on."""
        self._player = player
        self._doing = "playing"

    def say(self, doing: str) -> None:
        """Show what is being done instead of the player's progress."""
        self._player = None
        self._doing = doing

    def __enter__(self) -> Progress:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()
        if self._drawn:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def _draw(self) -> None:
        started = time.monotonic()
        if self._done.wait(_AFTER_S):
            return
        while not self._done.wait(_EVERY_S):
            player = self._player
            share = f" {100 * player.share_done:.0f} %" if player is not None else ""
            passed = time.monotonic() - started
            text = f"\r\033[K{self._name}: {self._doing}{share} ({passed:.0f} s)"
            print(text, end="", file=sys.stderr, flush=True)
            self._drawn = True


class Bar:
    """A bar on stderr for work that is known beforehand; silent unless `show`."""

    def __init__(self, *, show: bool) -> None:
        self._show = show
        self._what = ""
        self._total = self._done = 0.0
        self._began_s = self._drawn_s = 0.0

    def begin(self, what: str, work: float) -> None:
        """Start again from nothing, with so much work ahead."""
        self._what, self._total, self._done = what, work, 0.0
        self._began_s = time.monotonic()

    def done(self, work: float) -> None:
        """Say that so much work has ended."""
        self._done += work
        now_s = time.monotonic()
        if self._show and now_s - self._drawn_s >= _EVERY_S:
            self._drawn_s = now_s
            share = min(self._done / self._total, 1.0) if self._total else 1.0
            left_s = (now_s - self._began_s) * (1.0 - share) / share if share else 0.0
            filled = "#" * round(_BAR * share)
            text = (
                f"\r\033[K{self._what} [{filled:<{_BAR}}] {100 * share:.0f} % ({left_s:.0f} s left)"
            )
            print(text, end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the bar off the terminal."""
        if self._drawn_s:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
