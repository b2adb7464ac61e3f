"""What a GPU computes is what the CPU computes, and nothing waits for it. `make test-gpu`; skipped where there is none.

`TEST_DEVICE=cpu python -m pytest -m gpu tests/test_gpu.py` tries the tests themselves, as far as a CPU can.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import CLASSES, random_boxes, random_images, random_targets
from command import run_cold
from reduced import CASES, built, name_of
from torch.utils._triton import has_triton
from torchrun import torchrun
from trainers import trainer
from waiting import waits

from detr.data.loader import collate
from detr.structures import Batch, Losses, Normalizer, Predictions, Sample

DEVICE = os.environ.get("TEST_DEVICE", "cuda")
CUDA = torch.cuda.is_available()
needs_cuda = pytest.mark.skipif(not CUDA, reason="no CUDA device")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(DEVICE == "cuda" and not CUDA, reason="no CUDA device")]

TINY = ["logger=none", "+dataset.counts={train: 64, val: 16, test: 16}", "trainer.max_minutes=null"]


def test_the_quickstart_learns_in_bf16(tmp_path: Path) -> None:
    """As many steps as two CPU cores do in its two minutes. The longest test comes first."""
    words = ["logger=none", f"trainer.device={DEVICE}", "trainer.precision=bf16", "trainer.max_minutes=null"]
    words += ["trainer.max_steps=840", f"dataset.root={tmp_path}/shapes"]
    done = run_cold("train.py", *words, "trainer.evaluate_every=4", f"hydra.run.dir={tmp_path}", timeout=600)
    assert done.returncode == 0, done.stderr
    assert max(row.get("val/AP", 0) for row in rows(tmp_path)) > 0.4


def step(words: list[str], device: str) -> tuple[Predictions, Losses, dict[str, torch.Tensor]]:
    """Predictions, losses and gradients of one step in double precision; sines are computed in single precision."""
    model, criterion = built(words)
    for name, parameter in model.named_parameters():  # at the edge of a pixel interpolation has no derivative
        if name.endswith("sampling_offsets.bias"):
            parameter.data.add_(0.137)
    model = model.double().to(device).train()
    criterion = criterion.double().to(device)
    images, padding = (tensor.to(device) for tensor in random_images([(96, 128), (128, 96), (112, 112)]))
    targets = random_targets([3, 0, 4])
    targets.boxes = targets.boxes.double()
    targets = targets.to(device)
    predictions = model(images.double(), padding, targets)
    losses = criterion(predictions, targets, Normalizer(objects=7, images=3))
    losses.total.backward()
    gradients = {name: each.grad.cpu() for name, each in model.named_parameters() if each.grad is not None}
    return predictions, losses, gradients


@pytest.mark.parametrize("words", CASES, ids=name_of)
def test_a_step_is_the_cpus(words: list[str]) -> None:
    ours, losses, gradients = step(words, DEVICE)
    cpu, cpu_losses, cpu_gradients = step(words, "cpu")
    close = {"rtol": 1e-6, "atol": 1e-6}
    torch.testing.assert_close(ours.logits.cpu(), cpu.logits, **close)
    torch.testing.assert_close(ours.boxes.cpu(), cpu.boxes, **close)
    for name, term in cpu_losses.terms.items():
        torch.testing.assert_close(losses.terms[name].cpu(), term, **close)
    assert gradients.keys() == cpu_gradients.keys()
    for name, gradient in cpu_gradients.items():
        scale = max(1.0, gradient.abs().max().item())
        difference = (gradients[name] - gradient).abs().max().item()
        assert difference / scale < 1e-5, name


def batch_of(counts: list[int]) -> Batch:
    """Noise with so many objects on each image, as a loader gives it to a trainer."""
    generator = torch.Generator().manual_seed(0)
    size = (128, 128)
    samples = [
        Sample(
            image=torch.randint(256, (3, *size), generator=generator, dtype=torch.uint8),
            labels=torch.randint(CLASSES, (count,), generator=generator),
            boxes=random_boxes(count, generator),
            image_id=index,
            original_size=size,
            file=f"{index}.png",
        )
        for index, count in enumerate(counts)
    ]
    batch = collate(samples)
    return batch.pin_memory() if DEVICE == "cuda" else batch


@pytest.mark.parametrize("words", CASES, ids=name_of)
def test_a_step_waits_for_the_device_only_to_match(words: list[str], tmp_path: Path) -> None:
    """Once for the costs, which scipy reads on the host; once more where the matches of all layers are united."""
    model, criterion = built(words)
    options: dict[str, Any] = {"lr": 1e-4, "precision": "bf16", "ema_decay": 0.99, "clip_norm": 0.1}
    ours = trainer(model.to(DEVICE).train(), tmp_path, criterion=criterion.to(DEVICE), **options)
    batch = batch_of([3, 0, 4, 1])
    for _ in range(2):  # the first step makes the optimizer's state, and chooses kernels
        ours.train_step([batch])
    found = waits(lambda: ours.train_step([batch]), torch.device(DEVICE))
    assert found.total() <= 1 + criterion.unite_matches, found


@needs_cuda
@pytest.mark.skipif(not has_triton() or shutil.which("gcc") is None, reason="compiling for a GPU needs Triton and gcc")
def test_a_compiled_step_is_the_same(tmp_path: Path) -> None:
    losses = []
    for compiles in (False, True):
        model, criterion = built(CASES[0])
        options: dict[str, Any] = {"lr": 1e-4, "compile": compiles}
        ours = trainer(model.to("cuda").train(), tmp_path, criterion=criterion.to("cuda"), **options)
        losses.append([ours.train_step([batch_of([3, 0, 4, 1])]).total.item() for _ in range(2)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


@pytest.mark.parametrize("words", CASES, ids=name_of)
@needs_cuda
def test_a_forward_is_captured_as_a_graph(words: list[str]) -> None:
    """What is captured asks for nothing on the host, and says the same of other images when it is replayed."""
    model = built(words)[0].double().to("cuda").eval()
    first, second = (random_images([(128, 128)] * 2, seed=seed)[0].double().to("cuda") for seed in (0, 1))
    images, padding = first.clone(), torch.zeros(2, 128, 128, dtype=torch.bool, device="cuda")
    with torch.inference_mode():
        wanted = model(second, padding)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                model(images, padding)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = model(images, padding)
        images.copy_(second)
        graph.replay()
    torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.boxes, wanted.boxes, rtol=1e-6, atol=1e-6)


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_training_evaluation_and_resuming(precision: str, tmp_path: Path) -> None:
    """The loss falls in every precision, an evaluation says what the run said, and a stopped run goes on."""
    common = ["train.py", *TINY, f"trainer.device={DEVICE}", f"trainer.precision={precision}"]
    common += [f"dataset.root={tmp_path}/shapes", f"hydra.run.dir={tmp_path}/run"]
    for words in (["trainer.max_epochs=2"], ["trainer.max_epochs=4", "resume=auto"]):
        done = run_cold(*common, *words)
        assert done.returncode == 0, done.stderr
    found = rows(tmp_path / "run")
    assert [row["epoch"] for row in found] == [1, 2, 3, 4]
    assert found[-1]["train/loss"] < found[0]["train/loss"]
    done = run_cold(
        "evaluate.py", f"checkpoint={tmp_path}/run/checkpoints/last.pt", f"hydra.run.dir={tmp_path}/evaluation"
    )
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert metrics["AP"] == pytest.approx(found[-1]["val/AP"], abs=1e-3)


@needs_cuda
def test_nccl_with_one_process_trains_as_without(tmp_path: Path) -> None:
    words = ["train.py", *TINY, f"trainer.device={DEVICE}", "trainer.max_steps=8", f"dataset.root={tmp_path}/shapes"]
    alone = run_cold(*words, f"hydra.run.dir={tmp_path}/alone")
    assert alone.returncode == 0, alone.stderr
    launched = torchrun(*words, f"hydra.run.dir={tmp_path}/nccl", processes=1)
    assert launched.returncode == 0, launched.stderr
    first, second = (rows(tmp_path / name)[0]["train/loss"] for name in ("alone", "nccl"))
    assert math.isclose(first, second, rel_tol=1e-3)  # atomic additions come in any order
