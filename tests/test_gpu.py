"""What a GPU computes is what the CPU computes. All of it is skipped where there is none: `make test-gpu`."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from builders import CLASSES, random_images, random_targets
from command import run_cold
from torchrun import torchrun

from detr.assembly import build_model
from detr.config import build, compose, resolved
from detr.structures import Classes, Losses, Normalizer, Predictions

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

SMALL = [
    "backbone.weights=null",
    "queries.num_queries=14",
    "transformer.d_model=32",
    "transformer.num_heads=4",
    "transformer.dim_feedforward=32",
    "transformer.dropout=0",
    "transformer.encoder.num_layers=1",
    "transformer.decoder.num_layers=3",
]
# Noise is drawn on the device that computes, by other generators than the CPU's.
WITHOUT_NOISE = ["denoising.num_queries=4", "denoising.label_noise=0", "denoising.box_noise=0"]

TINY = ["logger=none", "+dataset.counts={train: 64, val: 16, test: 16}", "trainer.max_minutes=null"]


def step(words: list[str], device: str) -> tuple[Predictions, Losses, dict[str, torch.Tensor]]:
    """Predictions, losses and gradients of one step in double precision; sines are computed in single precision."""
    values = resolved(compose([*words, *SMALL]))
    torch.manual_seed(0)
    model = build_model(values, Classes.contiguous({index: str(index) for index in range(CLASSES)}), pretrained=False)
    for name, parameter in model.named_parameters():  # at the edge of a pixel interpolation has no derivative
        if name.endswith("sampling_offsets.bias"):
            parameter.data.add_(0.137)
    for name, buffer in model.backbone.named_buffers():  # so that no block's output explodes or vanishes
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
        elif name.endswith(("bn2.weight", "bn3.weight")):
            buffer.fill_(0.5)
    model = model.double().to(device).train()
    criterion = build(values["loss"]).double().to(device)
    images, padding = (tensor.to(device) for tensor in random_images([(96, 128), (128, 96), (112, 112)]))
    targets = random_targets([3, 0, 4])
    targets.boxes = targets.boxes.double()
    targets = targets.to(device)
    predictions = model(images.double(), padding, targets)
    losses = criterion(predictions, targets, Normalizer(objects=7, images=3))
    losses.total.backward()
    gradients = {name: each.grad.cpu() for name, each in model.named_parameters() if each.grad is not None}
    return predictions, losses, gradients


@pytest.mark.parametrize(
    "words",
    [
        ["experiment=detr_r50_coco"],
        ["experiment=conditional_detr_r50"],
        ["experiment=deformable_detr_r50"],
        ["experiment=dino_r50", *WITHOUT_NOISE],
        ["experiment=rt_detr_r50", *WITHOUT_NOISE],
        ["experiment=small_data"],
    ],
    ids=lambda words: words[0].partition("=")[2],
)
def test_a_step_is_the_cpus(words: list[str]) -> None:
    ours, losses, gradients = step(words, "cuda")
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


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_training_evaluation_and_resuming(precision: str, tmp_path: Path) -> None:
    """The loss falls in every precision, an evaluation says what the run said, and a stopped run goes on."""
    common = ["train.py", *TINY, "trainer.device=cuda", f"trainer.precision={precision}"]
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


def test_nccl_with_one_process_trains_as_without(tmp_path: Path) -> None:
    words = ["train.py", *TINY, "trainer.device=cuda", "trainer.max_steps=8", f"dataset.root={tmp_path}/shapes"]
    alone = run_cold(*words, f"hydra.run.dir={tmp_path}/alone")
    assert alone.returncode == 0, alone.stderr
    launched = torchrun(*words, f"hydra.run.dir={tmp_path}/nccl", processes=1)
    assert launched.returncode == 0, launched.stderr
    first, second = (rows(tmp_path / name)[0]["train/loss"] for name in ("alone", "nccl"))
    assert math.isclose(first, second, rel_tol=1e-3)  # atomic additions come in any order


def test_the_quickstart_learns_in_bf16(tmp_path: Path) -> None:
    """As many steps as two CPU cores do in its three minutes."""
    words = ["logger=none", "trainer.device=cuda", "trainer.precision=bf16", "trainer.max_minutes=null"]
    words += ["trainer.max_steps=1100", f"dataset.root={tmp_path}/shapes"]
    done = run_cold("train.py", *words, "trainer.evaluate_every=4", f"hydra.run.dir={tmp_path}", timeout=600)
    assert done.returncode == 0, done.stderr
    assert max(row.get("val/AP", 0) for row in rows(tmp_path)) > 0.4
