"""A line on the terminal for runs that take more than a second."""

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
