"""The commands as a user runs them, and a small data set for them."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
BCCD = SHARED / "data" / "bccd"

# The quickstart, so small that an epoch takes a second or two.
TINY = [
    "logger=none",
    "+dataset.counts={train: 40, val: 12, test: 12}",
    "transformer.d_model=32",
    "transformer.num_heads=4",
    "transformer.dim_feedforward=32",
    "queries.num_queries=20",
    "dataloader.batch_size=8",
    "dataloader.num_workers=0",
    "trainer.max_minutes=null",
]


class Started:
    """A command under way: `python ARGUMENTS`, in a process of its own that was forked from one which has imported
    everything, see tests/warm.py. tests/test_cli.py starts interpreters from cold.

    One at a time: the next one starts when this one has been waited for.
    """

    def __init__(self, *arguments: str, cwd: Path = ROOT, variables: Mapping[str, str] | None = None) -> None:
        self.arguments = arguments
        self.outputs = tempfile.TemporaryDirectory()
        self.stdout, self.stderr = (Path(self.outputs.name) / name for name in ("stdout", "stderr"))
        request = {
            "argv": arguments,
            "cwd": str(cwd),
            "env": os.environ | (variables or {}),
            "stdout": str(self.stdout),
            "stderr": str(self.stderr),
        }
        server = warm()
        assert server.stdin is not None
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        process = answer(server, 60)
        assert process is not None
        self.process = process
        self.status: int | None = None

    def done(self, timeout: float = 0) -> bool:
        """Whether it ends within these seconds."""
        if self.status is None:
            self.status = answer(warm(), timeout)
        return self.status is not None

    def wait(self, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """What it said in the end."""
        if not self.done(timeout):
            self.kill()
            raise subprocess.TimeoutExpired(
                list(self.arguments), timeout, self.stdout.read_bytes(), self.stderr.read_bytes()
            )
        assert self.status is not None
        said = self.stdout.read_text(), self.stderr.read_text()
        self.outputs.cleanup()
        return subprocess.CompletedProcess(list(self.arguments), self.status, *said)

    def wait_for(self, condition: Callable[[], bool], seconds: float = 300) -> None:
        """Until the condition holds, or it has ended."""
        deadline = time.monotonic() + seconds
        while not condition() and not self.done() and time.monotonic() < deadline:
            time.sleep(0.01)

    def kill(self) -> None:
        """kill -9 for it and everything that it started: its workers, torchrun's processes."""
        family = [self.process]
        for process in family:
            with contextlib.suppress(OSError):
                family += map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())
        for process in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        assert self.done(60)


def run(
    *arguments: str, timeout: float = 300, cwd: Path = ROOT, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`python ARGUMENTS` to its end."""
    return Started(*arguments, cwd=cwd, variables=variables).wait(timeout)


def run_cold(*arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """The same in an interpreter of its own: for commands that start interpreters themselves."""
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=timeout)


@functools.cache
def warm() -> subprocess.Popen[str]:
    """One for each process of the test run; it ends when its input does."""
    return subprocess.Popen(
        [sys.executable, "-u", ROOT / "tests" / "warm.py"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )


def answer(server: subprocess.Popen[str], timeout: float) -> int | None:
    """The next number that it tells; None where it takes longer."""
    assert server.stdout is not None
    if not select.select([server.stdout], [], [], timeout)[0]:
        return None
    return int(server.stdout.readline())


def only_error(done: subprocess.CompletedProcess[str]) -> str:
    """The one line on stderr of a command that refused its user's wish."""
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr + done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line
