"""Images/s of `experiment=small_data` and the quickstart: this checkout against another, alone and beside one process.

git worktree add ../before REVISION
python benchmarks/small.py ../before                       # the quickstart
python benchmarks/small.py ../before --root ../shared/data/bccd   # small_data too

Each checkout trains in a process of its own, with the real images, workers and optimizer; the two take turns.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from alternating import alternate, beside

ROOT = Path(__file__).resolve().parents[1]


class Training:
    """A process that takes training steps of a checkout when it is told to.

    Args:
        checkout: whose code.
        words: of its command line.
        steps: in a turn.
    """

    def __init__(self, checkout: Path, words: list[str], steps: int) -> None:
        self.steps = steps
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", *words],
            cwd=checkout,
            env=os.environ | {"PYTHONPATH": str(checkout)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self) -> None:
        """Take the steps of a turn."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(self.steps, file=self.process.stdin, flush=True)
        if not self.process.stdout.readline():
            raise SystemExit("a training ended")

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def serve(words: list[str]) -> None:
    """Take as many steps as each line of the standard input says, and answer with a line."""
    from detr.assembly import assemble
    from detr.config import Config, check, compose
    from detr.data.loader import grouped
    from detr.tracking.run_folder import RunFolder
    from detr.training.optim import train_mode
    from detr.training.trainer import Trainer

    with tempfile.TemporaryDirectory() as folder:
        parts = assemble(Config(*check(compose([*words, "logger=none"])), directory=Path(folder)))
        trainer = Trainer(parts, folder=RunFolder(Path(folder)))
        train_mode(trainer.model)
        batches = grouped(parts.loader.epochs(), parts.options.accumulate)
        for line in sys.stdin:
            for _ in range(int(line)):
                trainer.train_step(next(batches))
            print("done", flush=True)


def compare(name: str, before: Path, words: list[str], *, steps: int, turns: int) -> None:
    """Print how long so many steps take here and in another checkout."""
    for busy in (False, True):
        with beside(busy):
            trainings = [Training(checkout, words, steps) for checkout in (ROOT, before)]
            try:
                print(f"{name}, {'beside a busy process' if busy else 'alone'}: {alternate(*trainings, turns=turns)}")
            finally:
                for training in trainings:
                    training.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="the other checkout")
    parser.add_argument("--root", type=Path, help="of a data set for small_data")
    parser.add_argument("--steps", type=int, default=10, help="in a turn")
    parser.add_argument("--turns", type=int, default=7)
    arguments = parser.parse_args()
    options = {"before": arguments.before.absolute(), "steps": arguments.steps, "turns": arguments.turns}
    compare("quickstart", words=[], **options)
    if arguments.root is not None:
        compare("small_data", words=["experiment=small_data", f"dataset.root={arguments.root.absolute()}"], **options)


if __name__ == "__main__":
    serve(sys.argv[2:]) if sys.argv[1:2] == ["--serve"] else main()
