"""A window of Chromium, driven as WebDriver (W3C) has it, without a library for it."""

import base64
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from bench.errors import BrowserFailed
from overlay.testing_ports import free_port

LOOK_S = 0.05
TIMEOUT_S = 120.0
CHANGED = "ERR_NETWORK_CHANGED"

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""What a reference to an element is called (WebDriver, section 12.3)."""

KEYS = {
    "Tab": "\ue004",
    "Enter": "\ue007",
    "PageUp": "\ue00e",
    "PageDown": "\ue00f",
    "Left": "\ue012",
    "Up": "\ue013",
    "Right": "\ue014",
    "Down": "\ue015",
    "Delete": "\ue017",
}
"""Keys without a character (WebDriver, section 17.4.2)."""

NOT_YET = frozenset({"element not interactable", "no such element", "stale element reference"})
"""Refusals of what a page does not show yet (WebDriver, section 6.6); nothing has happened then."""

Place = tuple[float, float]
"""Across and down, as parts of an element's width and height."""


@dataclass(frozen=True)
class Browser:
    """One window; made by `open_browser`."""

    session: httpx.Client
    _logged: list[str] = field(default_factory=list)

    def open(self, url: str) -> None:
        """Open a page and return when it is loaded, with all that it loads at first.

        Whenever a network interface comes or goes, as they do where containers start, Chromium
        gives up what it loads, also from this machine itself; then the page is loaded again.
        """
        deadline = time.monotonic() + TIMEOUT_S
        path, said = "url", {"url": url}
        while not self._loads(path, said):
            _wait(deadline, f"{url} is given up again and again: {CHANGED}")
            path, said = "refresh", {}

    def logged(self) -> list[str]:
        """Return what pages have logged, and Chromium of them, since it was asked last."""
        found = [*self._logged, *self._new_log()]
        self._logged.clear()
        return found

    def _loads(self, path: str, said: dict[str, Any]) -> bool:
        try:
            self._post(path, said)
        except BrowserFailed as exc:
            if CHANGED not in str(exc):
                raise
            return False
        log = self._new_log()
        self._logged.extend(line for line in log if CHANGED not in line)
        return not any(CHANGED in line for line in log)

    def _new_log(self) -> list[str]:
        return [entry["message"] for entry in self._post("se/log", {"type": "browser"})]

    def type(self, css: str, text: str) -> None:
        """Type into the first element that is found; a file's path into a field for files."""
        self._once_there(css, "value", {"text": text})

    def retype(self, css: str, text: str) -> None:
        """Type into the first field that is found, instead of what it holds."""
        self._once_there(css, "clear", {})
        self.type(css, text)

    def click(self, css: str) -> None:
        """Click on the first element that is found."""
        self._once_there(css, "click", {})

    def draw(self, css: str, places: Sequence[Place]) -> None:
        """Press the mouse at the first place in an element, move it over the others, release it."""
        self.script("document.querySelector(arguments[0]).scrollIntoView({block: 'center'})", css)
        box = self.script(
            "const b = document.querySelector(arguments[0]).getBoundingClientRect();"
            "return [b.left, b.top, b.width, b.height]",
            css,
        )
        moves = [
            {
                "type": "pointerMove",
                "duration": 20,
                "x": round(box[0] + x * box[2]),
                "y": round(box[1] + y * box[3]),
            }
            for x, y in places
        ]
        press, release = ({"type": f"pointer{what}", "button": 0} for what in ("Down", "Up"))
        mouse = {
            "type": "pointer",
            "id": "mouse",
            "actions": [moves[0], press, *moves[1:], release],
        }
        self._post("actions", {"actions": [mouse]})

    def script(self, text: str, *given: Any) -> Any:
        """Return what a script returns, a promise's value too; `arguments` are what is given."""
        return self._post("execute/sync", {"script": text, "args": list(given)})

    def texts(self, css: str) -> list[str]:
        """Return what all elements that are found show."""
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText)"
        found: list[str] = self.script(script, css)
        return found

    def await_texts(self, css: str, count: int) -> list[str]:
        """Return the same once there are so many."""
        deadline = time.monotonic() + TIMEOUT_S
        while len(found := self.texts(css)) < count:
            _wait(deadline, f"{css} shows {found} and not {count}")
        return found

    def await_text(self, css: str, part: str) -> str:
        """Return what the elements that are found show once that is in it."""
        deadline = time.monotonic() + TIMEOUT_S
        while part not in (shown := "\n".join(self.texts(css))):
            _wait(deadline, f"{css} shows {shown!r} and not {part!r}")
        return shown

    def screenshot(self) -> bytes:
        """Return what the window shows, as a PNG."""
        return base64.b64decode(self._ask("GET", "screenshot", None))

    def _once_there(self, css: str, what: str, said: dict[str, Any]) -> None:
        """Do something with the first element that is found, once a person could do it."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            try:
                self._post(f"element/{self._element(css)}/{what}", said)
            except BrowserFailed as exc:
                if exc.error not in NOT_YET:
                    raise
                _wait(deadline, f"{what} of {css}: {exc}")
            else:
                return

    def _element(self, css: str) -> str:
        found: dict[str, str] = self._post("element", {"using": "css selector", "value": css})
        return found[_ELEMENT]

    def _post(self, path: str, said: dict[str, Any]) -> Any:
        return self._ask("POST", path, said)

    def _ask(self, method: str, path: str, said: dict[str, Any] | None) -> Any:
        return _value(self.session.request(method, path, json=said))


def _wait(deadline: float, missing: str) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError(missing)
    time.sleep(LOOK_S)


def _value(answer: httpx.Response) -> Any:
    value = answer.json()["value"]
    if answer.status_code != httpx.codes.OK:
        raise BrowserFailed(value["error"], value["message"])
    return value


@contextmanager
def open_browser(chromedriver: str, folder: Path, *, dark: bool = False) -> Iterator[Browser]:
    """Yield a headless Chromium with a profile of its own; what it downloads goes to `folder`."""
    port = free_port()
    # As root, which its sandbox refuses; it opens a page of ours only.
    arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    arguments += [f"--user-data-dir={folder / 'profile'}", "--window-size=1200,1000"]
    if dark:
        arguments.append("--blink-settings=preferredColorScheme=0")
    wish = {"args": arguments, "prefs": {"download.default_directory": str(folder)}}
    wishes = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": wish}}}
    driver = subprocess.Popen(
        [chromedriver, f"--port={port}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    transport = httpx.HTTPTransport(retries=9)  # 0, 0.5, 1, 2, … s between them
    sessions = f"http://127.0.0.1:{port}/session"
    try:
        with httpx.Client(transport=transport, timeout=TIMEOUT_S) as client:
            session = f"{sessions}/{_value(client.post(sessions, json=wishes))['sessionId']}"
            client.base_url = httpx.URL(session)
            try:
                yield Browser(client)
            finally:
                client.delete(session).raise_for_status()  # which ends Chromium
    finally:
        os.killpg(driver.pid, signal.SIGKILL)  # and what is left of it
        driver.wait(60)
