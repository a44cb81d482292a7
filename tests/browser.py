"""A page in headless Chromium, by the DevTools protocol over two pipes: no driver and no socket."""

import base64
import fcntl
import itertools
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page:
    """One file opened in a browser of its own; `events` are all that it told so far. A context manager."""

    def __init__(self, path: Path, profile: Path):
        (reads, self.out), (self.inward, writes) = os.pipe(), os.pipe()
        theirs, ours = (fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (reads, writes))  # not 3, not 4
        words = [str(CHROMIUM), "--headless", "--hide-scrollbars", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                 f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]  # fmt: skip
        shell = f'exec "$@" 3<&{theirs} 4>&{ours}'  # the protocol's two descriptors
        self.process = subprocess.Popen(
            ["bash", "-c", shell, "bash", *words], pass_fds=(theirs, ours), stderr=subprocess.DEVNULL
        )
        for end in (reads, writes, theirs, ours):
            os.close(end)
        self.rest, self.events, self.numbers, self.session = b"", [], itertools.count(1), None
        target = next(one for one in self.ask("Target.getTargets")["targetInfos"] if one["type"] == "page")
        self.session = self.ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Network", "Runtime"):
            self.ask(f"{domain}.enable")
        self.ask("Page.navigate", url=path.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self.read())

    def read(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            if not (more := os.read(self.inward, 1 << 20)):
                raise RuntimeError("the browser ended")
            self.rest += more
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while "id" not in (found := self.read()) or found["id"] != number:
            self.events.append(found)
        assert "error" not in found, found
        return found["result"]

    def value(self, script: str) -> Any:
        """What an expression of JavaScript is on the page."""
        found = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def size(self, width: int, height: int = 900) -> None:
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def media(self, kind: str = "screen", **features: str) -> None:
        listed = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.ask("Emulation.setEmulatedMedia", media=kind, features=listed)

    def press(self, key: str, code: int, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            typed = {"text": text} if text and kind == "keyDown" else {}
            self.ask(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **typed
            )

    def picture(self, path: Path, whole: bool = True) -> None:
        found = self.ask("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))

    def __enter__(self) -> "Page":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.out), os.close(self.inward)
        self.process.terminate()
        self.process.wait(10)
