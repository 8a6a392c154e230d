"""A headless Chromium, driven over its pipe: what a page says, measures and looks like.

    python -m parity.tests.browser PAGE.html PICTURE.png

takes a picture of the top of a page.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"


def find() -> str | None:
    """The path of a Chromium or Chrome, if one is installed."""
    return next(filter(None, map(shutil.which, (*_NAMES, _MAC))), None)


class Page:
    """One tab. ``complaints`` collects console errors, exceptions and requests that left the page."""

    def __init__(self, read: Any, write: Any):
        self._read, self._write, self._count, self._session = read, write, 0, None
        self.complaints: list[str] = []
        self._loaded: set[str] = set()
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        self._call("Page.setLifecycleEventsEnabled", enabled=True)

    def open(self, path: Path, width: int, height: int, dark: bool = False) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        loader = self._call("Page.navigate", url=path.resolve().as_uri())["loaderId"]
        while loader not in self._loaded:  # which may be heard before the answer to the call
            self._next()

    def evaluate(self, expression: str) -> Any:
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["text"])
        return answer["result"].get("value")

    def screenshot(self, path: Path, whole: bool = False) -> None:
        answer = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    def pdf(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._call("Page.printToPDF", printBackground=True)["data"]))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._write.write(json.dumps(message).encode() + b"\0")
        self._write.flush()
        while (answer := self._next()).get("id") != self._count:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        data = bytearray()
        while (byte := self._read.read(1)) != b"\0":
            if not byte:
                raise RuntimeError("the browser has gone")
            data += byte
        message = json.loads(data)
        self._hear(message.get("method"), message.get("params", {}))
        return message

    def _hear(self, method: str | None, said: dict[str, Any]) -> None:
        if method == "Page.lifecycleEvent" and said["name"] == "load":
            self._loaded.add(said["loaderId"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(said["exceptionDetails"]["text"])
        elif method == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(said["args"]))
        elif method == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            self.complaints.append(said["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            url = said["request"]["url"]
            if not url.startswith(("file:", "data:", "about:")):
                self.complaints.append(f"requested {url}")


@contextlib.contextmanager
def browser(executable: str) -> Iterator[Page]:
    """Started for this, with a profile of its own, and gone afterwards."""
    to_child, write = os.pipe()
    read, from_child = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        flags += ["--disable-extensions", "--disable-background-networking", f"--user-data-dir={profile}"]
        # The browser reads its commands from descriptor 3 and answers on 4.
        pipes = f'exec 3<&{to_child} 4>&{from_child}; exec "$@"'
        command = ["bash", "-c", pipes, "bash", executable, *flags, "--remote-debugging-pipe"]
        environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
        process = subprocess.Popen(
            command,
            pass_fds=(to_child, from_child),
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_child)
        os.close(from_child)
        try:
            with open(read, "rb") as answers, open(write, "wb") as commands:
                yield Page(answers, commands)
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


if __name__ == "__main__":
    source, picture = map(Path, sys.argv[1:])
    if executable := find():
        with browser(executable) as tab:
            tab.open(source, 1280, 800)
            tab.screenshot(picture)
    else:
        print(f"no Chromium or Chrome is installed: {picture} is left as it is")
