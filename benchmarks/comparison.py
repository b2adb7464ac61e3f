"""Does `detr compare` tell a worse setting from the baseline, and leave two equal ones alone? Fifteen real runs.

    python benchmarks/comparison.py [--output outputs/comparison] [--seeds 5] [--steps 112]

Three settings on 300 images of the embedded data set: the baseline; a learning rate 30 times lower, which is known to
be worse, with the baseline's seeds (paired); and a key that changes nothing, with seeds of its own (Welch). The runs
are ordinary sweeps; those that are in the output folder already are used as they are. 35 seconds a run on two cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    "logger=none",
    "+dataset.counts={train: 300, val: 60, test: 60}",
    "trainer.max_minutes=null",
    "scheduler.warmup_steps=20",
]


def sweep(folder: Path, *overrides: str) -> None:
    """`python train.py -m …` unless it is there."""
    if folder.exists():
        print(f"{folder} is there already")
        return
    command = [sys.executable, "train.py", "-m", *SMALL, f"hydra.sweep.dir={folder}", *overrides]
    subprocess.run(command, cwd=ROOT, check=True)


def joined(seeds: range) -> str:
    return f"seed={','.join(map(str, seeds))}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/comparison"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=112)
    arguments = parser.parse_args()
    output, count = arguments.output.absolute(), arguments.seeds
    common = [f"trainer.max_steps={arguments.steps}", f"paths.data_root={output / 'data'}"]
    sweep(output / "rates", *common, "optimizer.lr=1e-3,3.33e-5", joined(range(count)))
    sweep(output / "nothing", *common, "optimizer.lr=1e-3", "trainer.log_every=20", joined(range(count, 2 * count)))
    numbers = output / "comparison.json"
    paths = [str(output / "rates"), str(output / "nothing")]
    subprocess.run([sys.executable, "-m", "detr", "compare", *paths, "--json", str(numbers)], cwd=ROOT, check=True)
    verdicts = [each["verdict"] for each in json.loads(numbers.read_text())["conclusions"]]
    expected = ["worse", "not distinguishable"]
    print(f"expected {expected}, found {verdicts}")
    sys.exit(verdicts != expected)


if __name__ == "__main__":
    main()
