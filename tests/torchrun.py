"""torchrun as a user starts it, and what belongs to it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from command import ROOT


def launcher(*arguments: str, processes: int = 2) -> list[str]:
    """The command line of `torchrun --standalone --nproc-per-node=N ARGUMENTS`."""
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *arguments]


def torchrun(
    *arguments: str, processes: int = 2, timeout: float = 900, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    paths = [str(ROOT), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command = launcher(*arguments, processes=processes)
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout)


def own_errors(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines of stderr that are ours; torchrun adds a report of its own about every process that failed."""
    return [line for line in done.stderr.splitlines() if line.startswith("error: ")]


def kill_all(process: subprocess.Popen) -> None:
    """kill -9 for a process and everything that it started, torchrun's processes included."""
    family = [process.pid]
    for pid in family:
        with contextlib.suppress(OSError):
            family += [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
