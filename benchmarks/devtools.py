"""A page driven over Chromium's DevTools protocol: evaluate, click, type, take a picture.

Messages go through a pair of pipes (``--remote-debugging-pipe``), so that no library for web
sockets and no port are needed.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cellscribe.errors import InputError

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 30
"""Longest wait for an answer, or for what a page does."""


class Tab:
    """A page that is open."""

    def __init__(self, reading: int, writing: int) -> None:
        self.reading, self.writing = reading, writing
        self.number, self.rest, self.session = 0, b"", ""
        self.events: list[dict[str, Any]] = []

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method and give its result."""
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.writing, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            for found in self._receive(end):
                if found.get("id") == self.number:
                    assert "error" not in found, (method, found["error"])
                    return found["result"]
                self.events.append(found)
        raise TimeoutError(method)

    def _receive(self, end: float) -> list[dict[str, Any]]:
        if select.select([self.reading], [], [], max(0, end - time.monotonic()))[0]:
            self.rest += os.read(self.reading, 1 << 20)
        *whole, self.rest = self.rest.split(b"\0")
        return [json.loads(each) for each in whole]

    def open(self, page: Path) -> None:
        """Open a page; `wait` for what it shows."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.send("Page.navigate", url=page.as_uri())

    def value(self, expression: str) -> Any:
        """Value of an expression in the page; a promise is awaited."""
        found = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, (expression, found["exceptionDetails"])
        return found["result"].get("value")

    def wait(self, expression: str) -> Any:
        """Wait until an expression is true, and give its value."""
        end = time.monotonic() + SECONDS
        while not (found := self.value(expression)):
            assert time.monotonic() < end, (expression, self.complaints())
            time.sleep(0.05)
        return found

    def resize(self, width: int, height: int, *, dark: bool = False, scale: int = 1) -> None:
        """Show the page on a screen of a size, in light or dark mode."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height,
            deviceScaleFactor=scale, mobile=False,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """Send an event of the mouse's left button at a point of the window.

        Events of one frame may reach the page as one, so two frames are waited for.
        """
        held = {"button": "left", "buttons": int(kind != "mouseReleased"), "clickCount": 1}
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **(held | more))
        self.frames()

    def frames(self) -> None:
        """Wait until the page has been drawn twice."""
        self.value("new Promise((d) => requestAnimationFrame(() => requestAnimationFrame(d)))")

    def click(self, x: float, y: float) -> None:
        """Click at a point of the window."""
        self.mouse("mousePressed", x, y)
        self.mouse("mouseReleased", x, y)

    def drag(self, points: list[tuple[float, float]]) -> None:
        """Drag from the first point through the others."""
        self.mouse("mousePressed", *points[0])
        for (x0, y0), (x1, y1) in itertools.pairwise(points):
            for share in (0.5, 1.0):
                self.mouse("mouseMoved", x0 + share * (x1 - x0), y0 + share * (y1 - y0))
        self.mouse("mouseReleased", *points[-1])

    def press(self, key: str) -> None:
        """Press and release a key, such as "Tab", "Enter" or "l"."""
        code = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32}.get(key, ord(key[0].upper()))
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        more = {"key": key, "windowsVirtualKeyCode": code}
        self.send(
            "Input.dispatchKeyEvent", type="keyDown", **more, **({"text": text} if text else {})
        )
        self.send("Input.dispatchKeyEvent", type="keyUp", **more)
        self.frames()

    def picture(self, path: Path) -> None:
        """Write what the window shows as a PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))

    def complaints(self) -> list[str]:
        """Errors and warnings of the page so far, those of the driver left out."""
        found = []
        for event in self.events:
            kind, about = event.get("method"), event.get("params", {})
            if kind == "Runtime.exceptionThrown":
                found.append(str(about["exceptionDetails"]))
            elif kind == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning"):
                found.append(str(about["args"]))
            elif kind == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
                found.append(about["entry"]["text"])
        return [each for each in found if "GL Driver Message" not in each]

    def requests(self) -> list[str]:
        """Addresses that the page asked for."""
        sent = [e for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [each["params"]["request"]["url"] for each in sent]


def find_browser() -> str | None:
    """Path of a browser; None if there is none."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


@contextlib.contextmanager
def open_tab(folder: Path, page: Path, *options: str) -> Iterator[Tab]:
    """Open a page in headless Chromium with software rendering.

    Parameters
    ----------
    folder
        Where Chromium keeps its profile.
    page
        The page.
    options
        More options of Chromium.

    Raises
    ------
    InputError
        No browser is installed.
    """
    browser = find_browser()
    if browser is None:
        raise InputError(f"no browser is installed; install one of {', '.join(BROWSERS)}")
    there, writing = os.pipe()
    reading, here = os.pipe()
    # Chromium takes commands from its file descriptor 3 and answers on 4
    command = f'exec "$@" 3<&{there} 4>&{here}'
    process = subprocess.Popen(
        [
            "bash", "-c", command, "bash", browser, "--headless", "--no-sandbox", "--no-first-run",
            "--remote-debugging-pipe", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--hide-scrollbars", f"--user-data-dir={folder / 'profile'}", *options, "about:blank",
        ],
        pass_fds=(there, here), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(there)
    os.close(here)
    tab = Tab(reading, writing)
    try:
        tab.open(page)
        yield tab
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(reading)
        os.close(writing)
