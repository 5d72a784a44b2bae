"""A headless Chromium to test pages with, driven over the DevTools protocol.

The protocol goes through two pipes (`--remote-debugging-pipe`), so nothing has to be installed
besides the browser: https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
TIMEOUT = 60.0

# The browser reads commands from descriptor 3 and writes to 4.
START = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); "
START += "os.execv(sys.argv[3], sys.argv[3:])"


def find_browser() -> str | None:
    """Where a Chromium is, if there is one."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Page:
    """A page in a browser."""

    def __init__(self, commands: int, events: int) -> None:
        """Take the descriptors of an open browser's pipes."""
        self._commands = commands
        self._events = events
        self._number = 0
        self._read = b""
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        self.requested: list[str] = []
        self.call("Page.enable")
        self.call("Network.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + TIMEOUT
        while True:
            answer = self._next(until)
            if answer.get("method") == "Network.requestWillBeSent":
                self.requested.append(answer["params"]["request"]["url"])
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def _next(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._events], [], [], max(0, until - time.monotonic()))
            assert ready, "the browser does not answer"
            more = os.read(self._events, 1 << 16)
            assert more, "the browser has ended"
            self._read += more
        message, _, self._read = self._read.partition(b"\0")
        return json.loads(message)

    def open(self, address: str) -> None:
        """Go to an address and wait until the page is loaded."""
        self.call("Page.navigate", url=address)
        self.wait(f"location.href.startsWith({address!r}) && document.readyState === 'complete'")

    def value(self, script: str) -> Any:
        """Value of an expression in the page."""
        done = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in done, (script, done["exceptionDetails"])
        return done["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until an expression in the page is true."""
        until = time.monotonic() + TIMEOUT
        while not self.value(condition):
            assert time.monotonic() < until, f"never true: {condition}"
            time.sleep(0.02)

    def text(self, selector: str) -> str:
        """Text of an element as it is seen; "" when it is hidden."""
        return self.value(f"document.querySelector({json.dumps(selector)}).innerText")

    def texts(self, selector: str) -> list[str]:
        """Texts of all elements of a kind."""
        return self.value(
            f"[...document.querySelectorAll({json.dumps(selector)})].map(e=>e.innerText)"
        )

    def visible(self, selector: str) -> bool:
        """Whether an element is on show."""
        return self.value(f"document.querySelector({json.dumps(selector)}).checkVisibility()")

    def click(self, selector: str, number: int = 0) -> None:
        """Click with the mouse on the middle of an element."""
        where = self.value(
            f"(() => {{ const e = document.querySelectorAll({json.dumps(selector)})[{number}];"
            "e.scrollIntoView({block: 'nearest'}); const box = e.getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call(
                "Input.dispatchMouseEvent",
                type=kind,
                x=where[0],
                y=where[1],
                button="left",
                clickCount=1,
            )

    def paste(self, selector: str, text: str) -> None:
        """Put a text into a field, in place of what is there."""
        self.value(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.focus(); e.select(); })()"
        )
        self.call("Input.insertText", text=text)

    def press(self, key: str, code: int, text: str = "", modifiers: int = 0) -> None:
        """Press and release a key.

        Args:
            key: Its name, such as "Enter".
            code: Its number in Windows, such as 13.
            text: What it types.
            modifiers: 1 for Alt, 2 for Control, 8 for Shift, added up.
        """
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def screen(self, width: int, height: int, *, scale: float = 1, dark: bool = False) -> None:
        """Set the window's size in CSS pixels, and the colour scheme that the user prefers."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, path: Path) -> None:
        """Write what the window shows as a PNG."""
        taken = self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(taken["data"]))


@contextmanager
def open_page(profile: Path) -> Iterator[Page]:
    """A page of a new browser.

    Args:
        profile: An empty folder, for what the browser keeps.
    """
    browser = find_browser()
    assert browser is not None
    reads_commands, commands = os.pipe()
    events, writes_events = os.pipe()
    # Out of the way of 3 and 4.
    theirs = [fcntl.fcntl(one, fcntl.F_DUPFD, 10) for one in (reads_commands, writes_events)]
    flags = [
        "--headless=new",
        "--remote-debugging-pipe",
        f"--user-data-dir={profile}",
        "--no-sandbox",  # which containers do not allow; the pages are ours
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        "--hide-scrollbars",
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", START, *map(str, theirs), browser, *flags],
        pass_fds=theirs,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for one in (reads_commands, writes_events, *theirs):
        os.close(one)
    try:
        yield Page(commands, events)
    finally:
        os.close(commands)  # the browser ends when nobody can command it any more
        os.close(events)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
