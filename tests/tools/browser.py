"""A page as a browser draws it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


def drawn(page: Path) -> tuple[Any, list[str]]:
    """What a probe in the page has put into `data-found` of its body, and console messages."""
    command = [
        str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
        f"--user-data-dir={page.parent / 'profile'}", "--window-size=1400,2400",
        "--virtual-time-budget=6000", "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    match = re.search(r'data-found="([^"]*)"', done.stdout)
    assert match is not None
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(match.group(1).replace("&quot;", '"')), said
