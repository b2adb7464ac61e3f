"""Images/s of DETR-R50 on a GPU: ours against the one of `transformers`, and how often a step waits for the device.

python benchmarks/gpu.py                          # about a minute; needs CUDA and transformers
python benchmarks/gpu.py --batch-size 4 --repeats 7

Random weights, images of 800 × 1066 pixels that are on the device, 91 classes, seven objects an image; the same parts
learn, with auxiliary losses. The two are timed in turns; shown are medians and the spread of the ratio.
"""

from __future__ import annotations

import argparse
import collections
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from detr.assembly import build_model
from detr.config import build, compose, resolved
from detr.environment import autocast
from detr.structures import Classes, Normalizer, Targets

CLASSES, OBJECTS, HEIGHT, WIDTH = 91, 7, 800, 1066
DEVICE = torch.device("cuda")

Step = Callable[[], Any]


def ours(batch: int, precision: str) -> tuple[Step, Step]:
    """Return a training step and an inference of `experiment=detr_r50_coco`."""
    values = resolved(compose(["experiment=detr_r50_coco", "backbone.weights=null"]))
    names = Classes.contiguous({index: str(index) for index in range(CLASSES)})
    model = build_model(values, names, pretrained=False).to(DEVICE)
    criterion = build(values["loss"]).to(DEVICE)
    optimizer = build(values["optimizer"], model=model)
    images = torch.rand(batch, 3, HEIGHT, WIDTH, device=DEVICE)
    padding = torch.zeros(batch, HEIGHT, WIDTH, dtype=torch.bool, device=DEVICE)
    labels, boxes = objects(batch)
    targets = Targets.of(labels, boxes).to(DEVICE)

    def train() -> None:
        with autocast(DEVICE, precision):
            predictions = model(images, padding, targets)
        normalizer = Normalizer(objects=float(batch * OBJECTS), images=float(batch))
        update(model, criterion(predictions, targets, normalizer).total, optimizer)

    @torch.inference_mode()
    def infer() -> None:
        with autocast(DEVICE, precision):
            model(images, padding)

    return in_mode(model, train, True), in_mode(model, infer, False)


def theirs(batch: int, precision: str) -> tuple[Step, Step]:
    """Return the same of `transformers.DetrForObjectDetection`."""
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    backbone = ResNetConfig(out_features=["stage4"])
    config: Any = DetrConfig(backbone_config=backbone, use_timm_backbone=False, num_labels=CLASSES, auxiliary_loss=True)
    model: Any = DetrForObjectDetection(config).to(DEVICE)
    for name, parameter in model.named_parameters():  # stem and first stage do not learn
        parameter.requires_grad_("embedder" not in name and "encoder.stages.0" not in name)
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=1e-4)
    images = torch.rand(batch, 3, HEIGHT, WIDTH, device=DEVICE)
    mask = torch.ones(batch, HEIGHT, WIDTH, dtype=torch.long, device=DEVICE)
    labels = [
        {"class_labels": label.to(DEVICE), "boxes": boxes.to(DEVICE)}
        for label, boxes in zip(*objects(batch), strict=True)
    ]

    def train() -> None:
        with autocast(DEVICE, precision):
            loss = model(images, pixel_mask=mask, labels=labels).loss
        update(model, loss, optimizer)

    @torch.inference_mode()
    def infer() -> None:
        with autocast(DEVICE, precision):
            model(images, pixel_mask=mask)

    return in_mode(model, train, True), in_mode(model, infer, False)


def objects(batch: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Labels and boxes of each image."""
    sizes = torch.rand(batch, OBJECTS, 2) * 0.3 + 0.1
    centres = sizes / 2 + (1 - sizes) * torch.rand(batch, OBJECTS, 2)
    return list(torch.randint(CLASSES, (batch, OBJECTS))), list(torch.cat([centres, sizes], -1))


def update(model: nn.Module, loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    optimizer.step()
    optimizer.zero_grad()


def in_mode(model: nn.Module, step: Step, training: bool) -> Step:
    def run() -> None:
        model.train(training)
        step()

    return run


def seconds(step: Step, times: int) -> float:
    """Of one of so many steps, up to the end of the last."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(times):
        step()
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / times


def waits(step: Step) -> collections.Counter[str]:
    """Where a step waits for the device, with how often."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        step()
        torch.cuda.set_sync_debug_mode("default")
    places = (f"{each.filename.rpartition('site-packages/')[2]}:{each.lineno}" for each in caught)
    return collections.Counter(places)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    batch = arguments.batch_size
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, batches of {batch}")
    for precision in ("fp32", "bf16"):
        steps = {"ours": ours(batch, precision), "theirs": theirs(batch, precision)}
        for index, what in enumerate(("training", "inference")):
            for each in steps.values():
                seconds(each[index], 3)
            found = [
                {name: seconds(each[index], arguments.steps) for name, each in steps.items()}
                for _ in range(arguments.repeats)
            ]
            rates = {name: batch / statistics.median(turn[name] for turn in found) for name in steps}
            ratios = sorted(turn["theirs"] / turn["ours"] for turn in found)
            print(
                f"{precision} {what:<9} ours {rates['ours']:7.1f}  transformers {rates['theirs']:7.1f} images/s, "
                f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
                flush=True,
            )
        for name, (train, _) in steps.items():
            torch.cuda.reset_peak_memory_stats()
            train()
            print(
                f"{precision} {name}: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB with both models there",
                end="; ",
            )
            found_waits = waits(train)
            print(f"waits in a training step: {found_waits.total()} {dict(found_waits.most_common(6))}", flush=True)
        del steps
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
