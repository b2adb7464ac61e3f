"""torchrun as a user starts it, and what belongs to it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from command import ROOT, Started


def started(*arguments: str, processes: int = 2, cwd: Path = ROOT, variables: dict[str, str] | None = None) -> Started:
    """`torchrun --standalone --nproc-per-node=N ARGUMENTS`, under way."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    paths = [str(ROOT), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"PYTHONPATH": os.pathsep.join(paths)} | (variables or {})
    return Started(*launcher, *arguments, cwd=cwd, variables=environment)


def torchrun(
    *arguments: str, processes: int = 2, timeout: float = 900, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return started(*arguments, processes=processes, cwd=cwd).wait(timeout)


def own_errors(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines of stderr that are ours; torchrun adds a report of its own about every process that failed."""
    return [line for line in done.stderr.splitlines() if line.startswith("error: ")]
