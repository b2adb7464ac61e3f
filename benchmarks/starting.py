"""How long it takes from a command to the first training step, and how much memory a run takes, all its processes.

python benchmarks/starting.py --against ../earlier          # the quickstart, against a checkout of another revision
python benchmarks/starting.py --images 118000               # a data set of that size as well, with four workers

Commands of both are given in turns. The large data set is that of benchmarks/checking.py, in a folder that is removed
in the end. Memory is the proportional set size, up to the end of a run of three steps and its evaluation.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from checking import make, memory_of

ROOT = Path(__file__).resolve().parents[1]
QUICKSTART = ["trainer.max_steps=3", "trainer.max_minutes=null"]
LARGE = ["experiment=small_data", "logger=none", "dataloader.num_workers=4", *QUICKSTART]

# A callback of the run's, since nothing else of a run says when its first step is done, in earlier revisions, too.
CALLBACK = """
import time
from pathlib import Path

from detr.training.callbacks import Callback


class FirstStep(Callback):
    def __init__(self, *, file):
        self.file = Path(file)

    def on_step_end(self, trainer):
        if not self.file.exists():
            self.file.write_text(str(time.time()))
"""


@dataclass(frozen=True)
class Start:
    """Holds what one command took: seconds to the first step, and MB at most until it ended."""

    seconds: float
    megabytes: float


def start(checkout: Path, arguments: Sequence[str]) -> Start:
    """Return what `python train.py ARGUMENTS` takes in a checkout. Raises RuntimeError if it fails."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "first_step.py").write_text(CALLBACK)
        command = [sys.executable, "train.py", *arguments, f"hydra.run.dir={folder}/run"]
        command += ["+callbacks.first._target_=first_step.FirstStep", f"+callbacks.first.file={folder}/first"]
        with (folder / "log").open("w") as log:
            environment = {**os.environ, "PYTHONPATH": f"{checkout}{os.pathsep}{folder}", "WANDB_MODE": "offline"}
            started, most = time.time(), 0.0
            process = subprocess.Popen(command, cwd=checkout, stdout=log, stderr=log, env=environment)
            while process.poll() is None:
                most = max(most, memory_of(process.pid))
                time.sleep(0.25)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)}: {(folder / 'log').read_text()[-2000:]}")
        return Start(float((folder / "first").read_text()) - started, most)


def compare(name: str, arguments: Sequence[str], checkouts: dict[str, Path], turns: int) -> None:
    """Print what a command takes in each checkout, in turns."""
    found: dict[str, list[Start]] = {label: [] for label in checkouts}
    for turn in range(turns):
        for label in sorted(checkouts, reverse=bool(turn % 2)):
            found[label].append(start(checkouts[label], arguments))
    for label, starts in found.items():
        seconds = statistics.median(each.seconds for each in starts)
        megabytes = max(each.megabytes for each in starts)
        print(f"{name:<40} {label:<8} {seconds:6.1f} s {megabytes:7.0f} MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="a checkout of another revision")
    parser.add_argument("--images", type=int, help="of a large data set")
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    checkouts = {"this": ROOT} | ({"earlier": given.against.resolve()} if given.against else {})
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        shapes = [*QUICKSTART, f"dataset.root={root / 'shapes'}"]
        start(ROOT, shapes)  # generates the data set
        compare("the quickstart", shapes, checkouts, given.turns)
        if given.images:
            make(root / "large", given.images)
            large = [*LARGE, f"dataset.root={root / 'large'}"]
            compare(f"{given.images:,} images, 4 workers", large, checkouts, given.turns)


if __name__ == "__main__":
    main()
