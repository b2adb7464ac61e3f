"""How long `detr check` and the start of a training take on a large data set, and how much memory.

python benchmarks/checking.py            # 100,000 images, 700,000 annotations, in a folder that is removed in the end
python benchmarks/checking.py --images 10000

The images are hard links to a few files, so that making them takes seconds; they are read and decoded all the same.
Memory is the proportional set size of all processes together: what they share counts once.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
FILES = 50  # different ones
OBJECTS = 7  # of an image
SIZE = (640, 480)
VALIDATION = 200  # images: a training evaluates them
CHECK = ["-m", "detr", "check", "dataset=custom"]
TRAIN = ["train.py", "experiment=small_data", "logger=none", "dataloader.num_workers=4", "trainer.max_minutes=null"]


def make(root: Path, count: int) -> None:
    """Write the data set: all images but `VALIDATION` are the training split."""
    drawn = np.random.default_rng(0)
    images = root / "images"
    images.mkdir(parents=True)
    (root / "annotations").mkdir()
    for number in range(FILES):
        coarse = drawn.integers(0, 255, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC).save(root / f"{number}.jpg", quality=85)
    done = 0
    for split, images_of_it in (("train", count - VALIDATION), ("val", VALIDATION)):
        entries, annotations = [], []
        for number in range(done, done + images_of_it):
            name = f"{number:012d}.jpg"
            os.link(root / f"{number % FILES}.jpg", images / name)
            entries.append({"id": number, "file_name": name, "width": SIZE[0], "height": SIZE[1]})
            corners = drawn.integers(0, (560, 400), (OBJECTS, 2))
            sizes = drawn.integers(20, 80, (OBJECTS, 2))
            for (x, y), (w, h), category in zip(corners, sizes, drawn.integers(1, 81, OBJECTS), strict=True):
                box = [float(x), float(y), float(w), float(h)]
                annotations.append(
                    {
                        "id": number * OBJECTS + len(annotations) % OBJECTS,
                        "image_id": number,
                        "category_id": int(category),
                        "bbox": box,
                        "area": box[2] * box[3],
                        "iscrowd": 0,
                    }
                )
        done += len(entries)
        categories = [{"id": number, "name": f"class {number}"} for number in range(1, 81)]
        content = {"images": entries, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"{split}.json").write_text(json.dumps(content))


def memory_of(process: int) -> float:
    """Proportional set size of a process and its children, in MB; 0 where it has ended."""
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        rows = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    own = next(int(row.split()[1]) for row in rows if row.startswith("Pss:"))
    return own / 1024 + sum(memory_of(int(child)) for child in children)


def measure(*arguments: str, log: Path) -> tuple[float, float]:
    """Seconds and the most memory of `python ARGUMENTS`."""
    started, most = time.monotonic(), 0.0
    with log.open("w") as stream:
        process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=stream, stderr=stream)
        while process.poll() is None:
            most = max(most, memory_of(process.pid))
            time.sleep(0.2)
    return time.monotonic() - started, most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    count = parser.parse_args().images
    with tempfile.TemporaryDirectory() as folder:
        root, log = Path(folder) / "data", Path(folder) / "log"
        make(root, count)
        given = f"dataset.root={root}"
        commands = {
            "importing torch and the package": ["-c", "import detr.run"],
            "detr check pixels=false": [*CHECK, given, "pixels=false"],
            "detr check": [*CHECK, given],
            "training of one step, 4 workers": [*TRAIN, given, "trainer.max_steps=1", f"hydra.run.dir={folder}/run"],
        }
        for name, arguments in commands.items():
            seconds, megabytes = measure(*arguments, log=log)
            print(f"{name:<34} {seconds:7.1f} s {megabytes:7.0f} MB", flush=True)
            print("\n".join(f"    {line[:150]}" for line in log.read_text().splitlines()[-6:]))


if __name__ == "__main__":
    main()
