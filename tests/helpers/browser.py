"""Drives Chromium through its DevTools protocol: real keys, clicks, windows and colour schemes, and axe-core."""

import asyncio
import contextlib
import functools
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any

import aiohttp
import pytest

from tests.helpers.processes import wait_until

AXE = "https://registry.npmjs.org/axe-core/-/axe-core-4.10.3.tgz"
AXE_SHA256 = "0f2b4d7dcdf7d1219df8d1959ad68e565f51d14c3f0d88bb71cd59abeb956292"
DESK, PHONE = (1440, 900), (390, 844)
VIEWS = {  # the window, and whether the user prefers dark pages
    **{"desk, light": (DESK, False), "desk, dark": (DESK, True)},
    **{"phone, light": (PHONE, False), "phone, dark": (PHONE, True)},
}
MALICIOUS = "</script><script>document.title='hacked'</script>"
MALICIOUS += '<img src=x onerror="document.title=\'hacked\'">\u2028 & "quoted" {{style}}'


class Page:
    """An open page. ``run`` evaluates an expression; ``resize`` and ``press`` do what a user does."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, loop: asyncio.AbstractEventLoop):
        self._socket, self._loop, self._number = socket, loop, 0
        self.requests: list[str] = []

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """The answer to a command of the protocol."""
        return self._loop.run_until_complete(self._send(method, params))

    async def _send(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": params})
        while True:
            message = json.loads((await self._socket.receive(timeout=120)).data)
            if message.get("method") == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            if message.get("id") == self._number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]

    def run(self, script: str) -> Any:
        """The value of ``script``, an expression (``await`` included), as JSON. Fails on an exception."""
        done = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, replMode=True)
        assert "exceptionDetails" not in done, json.dumps(done["exceptionDetails"])[:2000]
        return done["result"].get("value")

    def until(self, condition: str) -> None:
        """Waits until ``condition``, an expression, is true; the caller's timeout ends a test in which it never is."""
        wait = f"const wait = () => ({condition}) ? done() : setTimeout(wait, 20); wait()"
        self.run(f"await new Promise(done => {{ {wait}; }})")

    def open(self, address: str) -> None:
        """Opens a page and waits until it is loaded. What is there before it is left first: a navigation returns before
        it is done, and what the user does next would be done to the page that is left."""
        for url in ("about:blank", address):
            self.send("Page.navigate", url=url)
            blank = json.dumps(url == "about:blank")
            there = f"document.readyState === 'complete' && (location.href === 'about:blank') === {blank}"
            wait_until(functools.partial(self.run, there))

    def resize(self, width: int, height: int = 844, *, dark: bool = False) -> None:
        """Sets the window, a phone's below 600 px, and the colour scheme that the user prefers."""
        phone = width < 600
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, mobile=phone, deviceScaleFactor=1)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def everywhere(self, address: str, views: Sequence[str] = tuple(VIEWS)) -> Iterator[str]:
        """Opens a page in each of ``views``, and yields which of them it is."""
        for name in views:
            size, dark = VIEWS[name]
            self.resize(*size, dark=dark)
            self.open(address)
            yield name

    def check(self, address: str, title: str) -> None:
        """On a desk and a phone, light and dark: a page fits the window, axe-core finds nothing, and it loads files
        only. It is then open on a desk."""
        self.requests.clear()
        for where in self.everywhere(address):
            assert self.fits(), where
            assert self.violations() == [], where
        assert self.run("document.title") == title
        assert {request.split(":")[0] for request in self.requests} <= {"file", "data", "about"}
        self.resize(*DESK)
        self.open(address)

    def press(self, key: str) -> None:
        """Presses a key, such as ``a`` or ``ArrowRight``, where the focus is."""
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        codes = {"Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
        code = codes.get(key, 0)
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def click(self, selector: str) -> None:
        """Taps in the middle of the first element that matches ``selector``."""
        box = f"(e => (e.scrollIntoView({{block: 'center'}}), e.getBoundingClientRect().toJSON()))({_query(selector)})"
        rect = self.run(box)
        where = {"x": rect["x"] + rect["width"] / 2, "y": rect["y"] + rect["height"] / 2}
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **where)

    def fits(self) -> bool:
        """Whether the page is no wider than the window; not than ``innerWidth``: a phone zooms out to a wide page."""
        return self.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")

    def violations(self) -> list[str]:
        """What axe-core finds: rule, and the first element."""
        self.run(axe() + ";0")
        found = self.run("(await axe.run()).violations.map(v => [v.id, v.nodes[0].html, v.nodes[0].failureSummary])")
        return [f"{rule}: {html} {why}"[:600] for rule, html, why in found]


def _query(selector: str) -> str:
    return f"document.querySelector({json.dumps(selector)})"


@functools.cache
def axe() -> str:
    """axe-core's source from the npm registry. Skips the test if the registry cannot be reached."""
    try:
        with urllib.request.urlopen(AXE, timeout=30) as response:
            package = response.read()
    except (urllib.error.URLError, OSError) as error:
        pytest.skip(f"axe-core cannot be fetched from {AXE}: {error}")
    assert hashlib.sha256(package).hexdigest() == AXE_SHA256, f"{AXE} is not the package that it was"
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        file = archive.extractfile("package/axe.min.js")
        assert file is not None
        return file.read().decode()


def chromium() -> str:
    """The path of Chromium."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    assert found, "tests of pages need Chromium: apt-get install chromium"
    return found


@contextlib.contextmanager
def browser() -> Iterator[Page]:
    """A page in a headless Chromium with a profile of its own."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, contextlib.ExitStack() as closing:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
        command = [chromium(), *flags, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        closing.callback(process.communicate)
        closing.callback(process.terminate)
        assert process.stderr is not None
        line = next(line for line in process.stderr if line.startswith("DevTools listening on"))
        loop = asyncio.new_event_loop()
        closing.callback(loop.close)
        session, socket = loop.run_until_complete(_connect(line.split("//")[1].split("/")[0]))
        closing.callback(lambda: loop.run_until_complete(session.close()))
        page = Page(socket, loop)
        for domain in ("Page", "Runtime", "Network"):
            page.send(f"{domain}.enable")
        yield page


async def _connect(host: str) -> tuple[aiohttp.ClientSession, aiohttp.ClientWebSocketResponse]:
    """The first tab of the browser at ``host``."""
    session = aiohttp.ClientSession()
    async with session.get(f"http://{host}/json/list") as response:
        tab = next(tab for tab in await response.json() if tab["type"] == "page")
    return session, await session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0)
