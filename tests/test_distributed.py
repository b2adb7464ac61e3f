"""Training and evaluation under torchrun, as a user starts them: one folder, one run, the numbers of one process."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command import ROOT, TINY, run
from torchrun import own_errors, torchrun
from wandb_file import read_run

from detr.data.shapes.dataset import generate

pytestmark = pytest.mark.slow

# Thirteen images to validate on and five to test on, in batches of four: neither two processes nor batches divide them.
ODD = [each for each in TINY if not each.startswith(("+dataset.counts", "dataloader.batch_size"))] + [
    "+dataset.counts={train: 40, val: 13, test: 5}",
    "dataloader.batch_size=4",
    "dataloader.num_workers=0",
]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("data") / "shapes"
    generate(root, {"train": 40, "val": 13, "test": 5})
    return [*ODD, f"dataset.root={root}"]


@pytest.fixture(scope="module")
def trained(shapes: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of two processes that finds boxes, masks and segments, with a batch norm that learns; what it printed."""
    root = tmp_path_factory.mktemp("runs")
    overrides = [each for each in shapes if not each.startswith(("logger", "dataset.root"))]
    overrides += ["experiment=shapes_panoptic", f"dataset.root={root / 'data'}", "trainer.max_epochs=1"]
    overrides += ["transformer/encoder=hybrid", "transformer.encoder.normalization=batch"]
    overrides += ["transformer.dropout=0.1", "trainer.checkpoint_every_steps=2"]
    done = torchrun("train.py", *overrides, "logger=wandb", f"paths.output_root={root / 'outputs'}")
    assert done.returncode == 0, done.stderr
    return root / "outputs", done.stdout


def test_resumed_within_the_epoch_it_is_the_same_run(trained: tuple[Path, str], tmp_path: Path) -> None:
    """From the checkpoint of step 2 of 5, which has the random states of both processes."""
    (folder,) = (trained[0] / "train").iterdir()
    overrides = (folder / ".hydra" / "overrides.yaml").read_text()
    words = [line.removeprefix("- ").strip("'") for line in overrides.splitlines() if "logger" not in line]
    done = torchrun(
        "train.py",
        *words,
        "logger=none",
        f"resume={folder}/checkpoints/step_00000002.pt",
        f"hydra.run.dir={tmp_path}/run",
    )
    assert done.returncode == 0, done.stderr
    assert "step_00000002.pt after 0 epochs, 2 steps" in done.stdout
    once, again = (
        torch.load(each / "checkpoints" / "last.pt", weights_only=True)["model"] for each in (folder, tmp_path / "run")
    )
    assert [name for name in once if not torch.equal(once[name], again[name])] == []
    assert (folder / "predictions.json").read_bytes() == (tmp_path / "run" / "predictions.json").read_bytes()


def test_one_folder_one_run_one_voice(trained: tuple[Path, str]) -> None:
    """40 images are five steps of two processes with batches of four; epochs are told once."""
    import wandb

    outputs, printed = trained
    (folder,) = (outputs / "train").iterdir()
    (row,) = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    assert (row["epoch"], row["step"]) == (1, 5)
    assert {"val/AP", "val/segm/AP", "val/PQ", "val/loss"} <= row.keys()
    assert printed.count("epoch 1 ") == 1
    assert sorted(path.name for path in folder.glob("*.log")) == ["train.log"]
    wandb.teardown()
    (directory,) = folder.glob("wandb/offline-run-*")
    recorded = read_run(directory)
    assert recorded.config["info"]["processes"] == 2
    assert recorded.exit_code == 0
    checkpoint = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
    assert len(checkpoint["trainer"]["processes"]) == 2


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_is_that_of_one_process(trained: tuple[Path, str], tmp_path: Path, split: str) -> None:
    """Boxes, masks and segments, to the byte, with three processes."""
    (folder,) = (trained[0] / "train").iterdir()
    arguments = ["evaluate.py", f"checkpoint={folder}/checkpoints/last.pt", f"split={split}"]
    arguments += ["evaluator.masks=true"]
    alone = run(*arguments, f"hydra.run.dir={tmp_path}/alone")
    assert alone.returncode == 0, alone.stderr
    together = torchrun(*arguments, f"hydra.run.dir={tmp_path}/together", processes=3)
    assert together.returncode == 0, together.stderr
    names = ["metrics.json", "predictions.json", "panoptic.json"]
    names += [f"panoptic/{path.name}" for path in (tmp_path / "alone" / "panoptic").iterdir()]
    assert len(names) == 3 + {"val": 13, "test": 5}[split]
    for name in names:
        assert (tmp_path / "together" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), name


def test_the_runs_own_evaluation_is_that_of_one_process(trained: tuple[Path, str], tmp_path: Path) -> None:
    (folder,) = (trained[0] / "train").iterdir()
    row = json.loads((folder / "metrics.jsonl").read_text())
    done = run("evaluate.py", f"checkpoint={folder}/checkpoints/last.pt", f"hydra.run.dir={tmp_path}/alone")
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "alone" / "metrics.json").read_text())
    assert {name: row[f"val/{name}"] for name in ("AP", "AP50", "AR100", "PQ", "SQ")} == {
        name: metrics[name] for name in ("AP", "AP50", "AR100", "PQ", "SQ")
    }
    assert (folder / "predictions.json").read_bytes() == (tmp_path / "alone" / "predictions.json").read_bytes()


def test_a_multirun_goes_job_after_job(shapes: list[str], tmp_path: Path) -> None:
    arguments = ["optimizer.lr=1e-3,1e-4", "trainer.max_steps=1", f"hydra.sweep.dir={tmp_path}/sweep"]
    done = torchrun("train.py", "-m", *shapes, *arguments)
    assert done.returncode == 0, done.stderr
    folders = sorted(path for path in (tmp_path / "sweep").iterdir() if path.is_dir())
    assert [path.name for path in folders] == ["0", "1"]
    rates = [json.loads((path / "metrics.jsonl").read_text())["train/lr"] for path in folders]
    assert rates[0] == pytest.approx(10 * rates[1])


def test_a_broken_image_ends_the_job_in_one_line(shapes: list[str], tmp_path: Path) -> None:
    data = tmp_path / "shapes"
    shutil.copytree(shapes[-1].partition("=")[2], data)
    image = data / "images" / "train" / "000007.jpg"
    image.write_bytes(image.read_bytes()[:100])
    done = torchrun("train.py", *shapes[:-1], f"dataset.root={data}", f"hydra.run.dir={tmp_path}/run")
    assert done.returncode != 0
    (line,) = own_errors(done)
    assert "000007.jpg" in line


def test_a_mistake_is_told_once(shapes: list[str], tmp_path: Path) -> None:
    arguments = ["optimizer.lr=-1", f"hydra.run.dir={tmp_path}/run"]
    done = torchrun("train.py", *shapes, *arguments)
    assert done.returncode != 0
    (line,) = own_errors(done)
    assert "lr: expected a number of at least 0, got -1" in line


FAILING = """
from detr import distributed
from detr.entry import entry_point

@entry_point("train")
def main(config):
    if distributed.rank() == 1:
        raise ValueError("broken in the second process")
    distributed.from_main(None)
    distributed.total([1.0])

main()
"""


def test_the_traceback_is_that_of_the_process_that_failed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(FAILING)
    done = torchrun(str(script), f"hydra.run.dir={tmp_path}/run", cwd=tmp_path)
    assert done.returncode != 0
    assert done.stderr.count("ValueError: broken in the second process") == 1
    assert "Connection closed by peer" not in done.stderr


def test_more_processes_than_images(shapes: list[str], tmp_path: Path) -> None:
    few = [each for each in shapes if "dataset" not in each]
    few += ["+dataset.counts={train: 1, val: 1, test: 1}", f"dataset.root={tmp_path}/few"]
    done = torchrun("train.py", *few, f"hydra.run.dir={tmp_path}/run")
    (line,) = own_errors(done)
    assert "1 training images are too few for 2 processes" in line


@pytest.mark.parametrize("rendezvous", ["static", "c10d"])
def test_two_nodes_on_one_machine(shapes: list[str], tmp_path: Path, rendezvous: str) -> None:
    """Two torchrun agents on loopback, as docs/distributed.md starts them on two machines."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    if rendezvous == "static":
        places = [["--master-addr=127.0.0.1", f"--master-port={port}", f"--node-rank={node}"] for node in (0, 1)]
    else:
        where = ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=7"]
        places = [where, where]
    script = ["train.py", *shapes, "trainer.max_epochs=1", f"paths.output_root={tmp_path}/outputs"]
    agents = [
        subprocess.Popen(
            [*common, *place, *script],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for place in places
    ]
    outputs = [agent.communicate(timeout=400) for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], outputs
    (folder,) = (tmp_path / "outputs" / "train").iterdir()
    assert json.loads((folder / "metrics.jsonl").read_text())["step"] == 5
    assert sum("epoch 1 " in printed for printed, _ in outputs) == 1
