"""A real browser without a window, driven over the DevTools protocol: what a page shows, what it says in the console, how it reacts.

Concept: one browser process with a pipe (messages end with a zero byte), one tab for each page; mouse and keys go through the browser's
own input, so that what a person can do is what is tested. Boundary: no network: names resolve to nothing, and what a page asks for is
written down. Failure: an error of the protocol or of a script raises, and so does half a minute without an answer.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from browser_program import BrowserProgram

_ANSWER_SECONDS = 30.0
_OPTIONS = (
    "--remote-debugging-pipe",
    # Tests run as root in containers, where its own sandbox cannot start; the pages are ours.
    "--no-sandbox",
    "--headless",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)

_AT_DESCRIPTORS = """
import fcntl, os, sys
reads, writes = (fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3])
os.dup2(reads, 3)
os.dup2(writes, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""The browser has its pipe at 3 and 4, whatever numbers the two ends have here."""

Json = dict[str, Any]


@contextlib.contextmanager
def started_browser(program: BrowserProgram) -> Iterator[Browser]:
    """Run a browser while the block runs."""
    to_browser, own_output = os.pipe()
    own_input, from_browser = os.pipe()
    with tempfile.TemporaryDirectory(prefix="fleetpack-browser-") as profile:
        command = [str(program.path), *_OPTIONS, f"--user-data-dir={profile}"]
        process = subprocess.Popen(
            [sys.executable, "-c", _AT_DESCRIPTORS, str(to_browser), str(from_browser), *command],
            pass_fds=(to_browser, from_browser),
            env=os.environ | program.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        browser = Browser(reads=own_input, writes=own_output)
        try:
            yield browser
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(own_input)
            os.close(own_output)


@dataclass(slots=True, kw_only=True)
class Browser:
    """The process at the other end of a pipe."""

    reads: int
    writes: int
    _buffer: bytes = b""
    _last_id: int = 0
    _tabs: dict[str, Tab] = field(default_factory=dict)

    def open(self, page: Path, *, width: int = 1280, height: int = 900, scheme: str = "light") -> Tab:
        """Open a file in a tab of its own and wait until it is drawn."""
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        tab = self._tabs[session] = Tab(browser=self, session=session, width=width, height=height)
        for domain in ("Page", "Runtime", "Log", "Network"):
            tab.call(f"{domain}.enable")
        tab.call(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )
        tab.call("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        tab.call("Page.navigate", {"url": page.resolve().as_uri()})
        self._wait_for(lambda: tab.is_loaded)
        return tab

    def call(self, method: str, parameters: Json | None = None, session: str | None = None) -> Json:
        """Send a command and return its answer; events that come before it are given to their tabs."""
        self._last_id += 1
        message: Json = {"id": self._last_id, "method": method, "params": parameters or {}}
        if session is not None:
            message["sessionId"] = session
        os.write(self.writes, json.dumps(message).encode() + b"\0")
        answer: Json = {}

        def is_answered() -> bool:
            return "id" in answer

        self._wait_for(is_answered, answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        result: Json = answer["result"]
        return result

    def _wait_for(self, is_done: Any, answer: Json | None = None) -> None:
        end = time.monotonic() + _ANSWER_SECONDS
        while not is_done():
            message = self._next_message(end)
            if message.get("id") == self._last_id and answer is not None:
                answer.update(message)
            elif message.get("sessionId") in self._tabs:
                self._tabs[message["sessionId"]].hear(message["method"], message["params"])

    def _next_message(self, end: float) -> Json:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self.reads], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise TimeoutError(f"the browser has not answered for {_ANSWER_SECONDS:.0f} s")
            part = os.read(self.reads, 1 << 20)
            if not part:
                raise RuntimeError("the browser has ended")
            self._buffer += part
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: Json = json.loads(text)
        return message


@dataclass(slots=True, kw_only=True)
class Tab:
    """A page that is open."""

    browser: Browser
    session: str
    width: int
    height: int
    problems: list[str] = field(default_factory=list)
    """What the console shows: errors, warnings, exceptions."""
    fetched: list[str] = field(default_factory=list)
    """Addresses that the page asked for, its own included."""
    is_loaded: bool = False

    def call(self, method: str, parameters: Json | None = None) -> Json:
        """Send a command to this tab."""
        return self.browser.call(method, parameters, self.session)

    def hear(self, method: str, parameters: Json) -> None:
        """Take an event."""
        match method:
            case "Page.loadEventFired":
                self.is_loaded = True
            case "Network.requestWillBeSent":
                self.fetched.append(parameters["request"]["url"])
            case "Runtime.exceptionThrown":
                details = parameters["exceptionDetails"]
                self.problems.append(details.get("exception", {}).get("description", details["text"]))
            case "Runtime.consoleAPICalled" if parameters["type"] in ("error", "warning", "assert"):
                self.problems.append(
                    " ".join(str(one.get("value", one.get("description"))) for one in parameters["args"])
                )
            case "Log.entryAdded" if parameters["entry"]["level"] in ("error", "warning"):
                self.problems.append(parameters["entry"]["text"])

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", {"expression": expression, "returnByValue": True, "awaitPromise": True})
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise RuntimeError(details.get("exception", {}).get("description", details["text"]))
        return answer["result"].get("value")

    def move_to(self, x: float, y: float) -> None:
        """Move the mouse to a point of the window."""
        self.call("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x, "y": y})

    def hover(self, element: str, across: float = 0.5, down: float = 0.5) -> None:
        """Bring an element (a JavaScript expression) into the window and move the mouse over it, to that share of its box."""
        self.move_to(*self._point(element, across, down))

    def click(self, element: str) -> None:
        """Click in the middle of an element."""
        x, y = self._point(element, 0.5, 0.5)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1})

    def type_into(self, element: str, text: str) -> None:
        """Give an element the focus and type."""
        self.evaluate(f"({element}).focus()")
        self.call("Input.insertText", {"text": text})

    def choose(self, element: str, value: str) -> None:
        """Choose an option of a list, as the browser does it once its popup is closed."""
        self.evaluate(
            f"(() => {{ const list = {element}; list.value = {json.dumps(value)}; "
            "list.dispatchEvent(new Event('change', { bubbles: true })); })()"
        )

    def take_picture(self, path: Path) -> None:
        """Write a PNG of the whole page."""
        answer = self.call(
            "Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True, "clip": self._whole()}
        )
        path.write_bytes(base64.b64decode(answer["data"]))

    def _whole(self) -> Json:
        height = self.evaluate("document.documentElement.scrollHeight")
        return {"x": 0, "y": 0, "width": self.width, "height": height, "scale": 1}

    def _point(self, element: str, across: float, down: float) -> tuple[float, float]:
        box = self.evaluate(
            f"(() => {{ const one = {element}; one.scrollIntoView({{ block: 'center' }}); const box = one.getBoundingClientRect(); "
            "return [box.left, box.top, box.width, box.height]; })()"
        )
        return box[0] + across * box[2], box[1] + down * box[3]
