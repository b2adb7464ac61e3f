"""How fast the quickstart trains alone and beside another busy process, by how long OpenMP's threads spin.

python benchmarks/busy_machine.py                        # about ten minutes on two cores
python benchmarks/busy_machine.py --steps 30 --repeats 1

Every situation trains the same steps in a process of its own, in turns. Shown is the median of images/s.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from alternating import beside

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {
    "300,000 rounds (GNU's default)": {"GOMP_SPINCOUNT": "300000"},
    "10,000 rounds": {"GOMP_SPINCOUNT": "10000"},
    "1,000 rounds (ours)": {"GOMP_SPINCOUNT": "1000"},
    "none": {"GOMP_SPINCOUNT": "0"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}


def images_per_second(variables: dict[str, str], steps: int) -> float:
    """Train, and return what the run's row says."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    with tempfile.TemporaryDirectory() as folder:
        words = [f"trainer.max_steps={steps}", "trainer.max_minutes=null", "trainer.evaluate_every=9999", "logger=none"]
        command = [sys.executable, "train.py", *words, f"hydra.run.dir={folder}/run"]
        subprocess.run(command, cwd=ROOT, env=others | variables, check=True, capture_output=True)
        (row,) = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
    return json.loads(row)["train/images_per_second"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    found: dict[tuple[str, bool], list[float]] = {}
    for _ in range(arguments.repeats):
        for name, variables in SETTINGS.items():
            for busy in (False, True):
                with beside(busy):
                    found.setdefault((name, busy), []).append(images_per_second(variables, arguments.steps))
    print(f"{'threads spin':<32} {'alone':>7} {'beside one':>11}   images/s, {os.cpu_count()} cores")
    for name in SETTINGS:
        alone, shared = (statistics.median(found[name, busy]) for busy in (False, True))
        print(f"{name:<32} {alone:>7.1f} {shared:>11.1f}")


if __name__ == "__main__":
    main()
