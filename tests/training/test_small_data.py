"""The recipe for small data learns from few images: blood cells, in a minute or two."""

import json
from pathlib import Path

import pytest
from command import BCCD, run


@pytest.mark.slow
@pytest.mark.skipif(not BCCD.exists(), reason="BCCD is not there")
def test_two_hundred_steps_find_most_blood_cells(tmp_path: Path) -> None:
    splits = ",".join(f"{BCCD}/annotations/{split}.json" for split in ("train", "val"))
    done = run(
        "train.py",
        "experiment=small_data",
        f"dataset.root={BCCD}",
        f"dataset.train.annotations=[{splits}]",
        "trainer.max_minutes=null",
        "trainer.max_steps=200",
        "trainer.evaluate_every=1000",
        "logger=none",
        f"hydra.run.dir={tmp_path}/run",
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    last = tmp_path / "run" / "checkpoints" / "last.pt"
    done = run("evaluate.py", f"checkpoint={last}", "split=test", f"hydra.run.dir={tmp_path}/test")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "test" / "metrics.json").read_text())["AP50"] >= 0.6
