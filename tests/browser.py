"""A real browser, spoken to in the words of its own developer tools over a pipe."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def browse(page: Path, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Open a page once, with its profile in a folder, for flags such as `--dump-dom`; stderr is its console."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, "--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}", *flags]
    return subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=600, check=True)


class Browser:
    """One page. `said` is what its console said, `asked` are the addresses that it asked for."""

    def __init__(self, send: int, receive: int) -> None:
        self.send, self.receive, self.rest, self.number = send, receive, b"", 0
        self.said: list[str] = []
        self.asked: list[str] = []
        self.session: dict[str, str] = {}
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters, **self.session}
        os.write(self.send, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            for answer in self._messages(deadline):
                if answer.get("id") == self.number:
                    assert "error" not in answer, answer
                    return answer["result"]
        raise TimeoutError(method)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript in the page; promises are waited for."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 120) -> Any:
        """The value of the expression as soon as it is true."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if value := self.evaluate(expression):
                return value
            time.sleep(0.2)
        raise TimeoutError(f"{expression}; the page: {self.evaluate('document.body.innerText')}")

    def screenshot(self, path: Path, width: int, height: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def _messages(self, deadline: float) -> list[dict[str, Any]]:
        if select.select([self.receive], [], [], max(0, deadline - time.monotonic()))[0]:
            self.rest += os.read(self.receive, 1 << 20)
        *whole, self.rest = self.rest.split(b"\0")
        found = [json.loads(each) for each in whole]
        for each in found:
            if each.get("method") == "Network.requestWillBeSent":
                self.asked.append(each["params"]["request"]["url"])
            elif each.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
                self.said.append(json.dumps(each["params"]))
        return found


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser of its own. It reads from file descriptor 3 and writes to 4."""
    (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
    redirected = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
    process = subprocess.Popen(
        [
            "bash",
            "-c",
            redirected,
            "browser",
            str(CHROMIUM),
            *FLAGS,
            "--remote-debugging-pipe",
            f"--user-data-dir={profile}",
        ],
        pass_fds=(theirs_in, theirs_out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Browser(ours_out, ours_in)
    finally:
        os.close(ours_out)
        os.close(ours_in)
        process.terminate()
        process.wait(60)
