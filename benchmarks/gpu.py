"""Images/s, memory and waits on a GPU: ours against `transformers`, and against ours without what makes it fast.

python benchmarks/gpu.py                             # about a minute; needs CUDA and transformers
python benchmarks/gpu.py --only compile               # trainer.compile=true, which takes minutes to compile
python benchmarks/gpu.py --batch-size 4 --turns 7
python benchmarks/gpu.py --device cpu --size 320 320 --batch-size 1 --steps 1 --turns 1   # tries the file itself

Random weights, images that are on the device, 91 classes, seven objects an image. DETR-R50 learns in the same parts on
both sides, with auxiliary losses. Two sides are timed in turns of several steps; shown are medians, and the ratio of
images/s with its spread. Memory is that of weights, gradients, the optimizer's state and a step. When `--seconds` are
over no further comparison begins.
"""

from __future__ import annotations

import argparse
import collections
import functools
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from alternating import alternate
from torch import nn
from waiting import waits

from detr.assembly import build_model, build_optimizer
from detr.config import build, compose, resolved
from detr.environment import autocast
from detr.models.detr import DETR
from detr.structures import Classes, Normalizer, Predictions, Targets
from detr.training.compilation import compile_regions
from detr.weights.layouts import d_fine, rf_detr, rt_detr

CLASSES, OBJECTS = 91, 7
PRECISIONS = ("bf16", "fp32")
FAMILY = {"rt_detr_r50": (rt_detr, 640), "d_fine_m": (d_fine, 640), "rf_detr_small": (rf_detr, 512)}

Step = Callable[[], Any]


@dataclass(frozen=True)
class Setting:
    """Where and how much: the device, images in a batch, their height and width, steps of a turn, turns."""

    device: torch.device
    batch: int
    size: tuple[int, int]
    steps: int
    turns: int

    def images(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images [B, 3, H, W] and which of their pixels are padding [B, H, W]: none."""
        images = torch.rand(self.batch, 3, *self.size, device=self.device)
        return images, torch.zeros(self.batch, *self.size, dtype=torch.bool, device=self.device)

    def objects(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return labels and boxes of each image."""
        sizes = torch.rand(self.batch, OBJECTS, 2) * 0.3 + 0.1
        centres = sizes / 2 + (1 - sizes) * torch.rand(self.batch, OBJECTS, 2)
        return list(torch.randint(CLASSES, (self.batch, OBJECTS))), list(torch.cat([centres, sizes], -1))

    def square(self, side: int) -> Setting:
        """Return the same for square images, but no larger than these."""
        side = min(side, *(32 * (length // 32) for length in self.size))
        return replace(self, size=(side, side))


@dataclass(frozen=True)
class Detector:
    """Holds a training step and an inference, each for a precision."""

    train: Callable[[str], Any]
    infer: Callable[[str], Any]


def ours(setting: Setting, *words: str, criterion_too: bool = True) -> tuple[DETR, Detector]:
    """Return a model of ours, and what it does; `words` compose it."""
    values = resolved(compose([*words, "backbone.weights=null"]))
    names = Classes.contiguous({index: str(index) for index in range(CLASSES)})
    model = build_model(values, names, pretrained=False).to(setting.device)
    images, padding = setting.images()
    targets = Targets.of(*setting.objects()).to(setting.device)
    criterion = build(values["loss"]).to(setting.device) if criterion_too else None
    optimizer = build_optimizer(values["optimizer"], model) if criterion_too else None
    normalizer = Normalizer(objects=float(setting.batch * OBJECTS), images=float(setting.batch))

    def train(precision: str) -> None:
        model.train()
        with autocast(setting.device, precision):
            predictions = model(images, padding, targets)
        update(model, criterion(predictions, targets, normalizer).total, optimizer)

    @torch.inference_mode()
    def infer(precision: str) -> Predictions:
        model.eval()
        with autocast(setting.device, precision):
            return model(images, padding)

    return model, Detector(train, infer)


def theirs(setting: Setting, config: Any) -> Detector:
    """Return what a detector of `transformers` does."""
    from transformers import AutoModelForObjectDetection

    model: Any = AutoModelForObjectDetection.from_config(config).to(setting.device)
    for name, parameter in model.named_parameters():  # stem and first stage of a ResNet do not learn
        parameter.requires_grad_("embedder" not in name and "encoder.stages.0" not in name)
    learning = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-4, weight_decay=1e-4)
    images, padding = setting.images()
    mask = (~padding).long()
    labels = [
        {"class_labels": label.to(setting.device), "boxes": boxes.to(setting.device)}
        for label, boxes in zip(*setting.objects(), strict=True)
    ]

    def train(precision: str) -> None:
        model.train()
        with autocast(setting.device, precision):
            loss = model(images, pixel_mask=mask, labels=labels).loss
        update(model, loss, optimizer)

    @torch.inference_mode()
    def infer(precision: str) -> None:
        model.eval()
        with autocast(setting.device, precision):
            model(images, pixel_mask=mask)

    return Detector(train, infer)


def update(model: nn.Module, loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    optimizer.step()
    optimizer.zero_grad()


def compared(setting: Setting, what: str, peer: str, mine: Step, other: Step) -> str:
    """Time both in turns; return the row of the table."""

    def several(step: Step) -> Step:
        def steps() -> None:
            for _ in range(setting.steps):
                step()
            synchronize(setting.device)

        return steps

    for step in (mine, other):  # kernels are chosen in the first steps
        step(), step()
    found = alternate(several(mine), several(other), turns=setting.turns, warmup=0)
    images = setting.batch * setting.steps
    return (
        f"| {what} | {images / found.ours:.1f} | {images / found.theirs:.1f} | "
        f"{1 / found.ratio:.2f} ({1 / found.high:.2f} to {1 / found.low:.2f}) | {peer} |"
    )


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


@dataclass(frozen=True)
class Costs:
    """Holds what a training step takes: bytes of the device, and where it waits for that."""

    memory: int
    waits: collections.Counter[str]


def with_costs(setting: Setting, make: Callable[[], Detector]) -> tuple[Detector, dict[str, Costs]]:
    """Build a detector; return it, and what it costs in each precision."""
    cuda = setting.device.type == "cuda"
    before = torch.cuda.memory_allocated() if cuda else 0
    detector = make()
    found = {}
    for precision in PRECISIONS:
        detector.train(precision)  # after the first step the optimizer has its state
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        detector.train(precision)
        peak = torch.cuda.max_memory_allocated() - before if cuda else 0
        found[precision] = Costs(peak, waits(functools.partial(detector.train, precision), setting.device))
    return detector, found


def detr_r50(setting: Setting) -> Iterator[str]:
    """The paper's detector: training and inference against transformers, and against ours without channels-last."""
    from transformers import DetrConfig, ResNetConfig

    words = "experiment=detr_r50_coco"
    backbone = ResNetConfig(out_features=["stage4"])
    config: Any = DetrConfig(backbone_config=backbone, use_timm_backbone=False, num_labels=CLASSES, auxiliary_loss=True)
    mine, my_costs = with_costs(setting, lambda: ours(setting, words)[1])
    other, other_costs = with_costs(setting, lambda: theirs(setting, config))
    for precision in PRECISIONS:
        for kind, step, peer in (("training", mine.train, other.train), ("inference", mine.infer, other.infer)):
            what = f"{kind}, DETR-R50, {precision}"
            steps = functools.partial(step, precision), functools.partial(peer, precision)
            yield compared(setting, what, "`transformers`", *steps)
        costs = my_costs[precision], other_costs[precision]
        memory = [each.memory / 2**30 for each in costs]
        share = f"{memory[0] / memory[1]:.2f}" if memory[1] else ""
        yield f"| training, DETR-R50, {precision}: GiB | {memory[0]:.2f} | {memory[1]:.2f} | {share} | `transformers` |"
        yield f"| … waits for the device | {costs[0].waits.total()} | {costs[1].waits.total()} | | `transformers` |"
        print(f"{precision}: ours waits in {dict(costs[0].waits)}", file=sys.stderr)
    few = replace(setting, batch=2)
    pair = [functools.partial(each.train, "bf16") for each in (ours(few, words)[1], theirs(few, config))]
    yield compared(few, "training, DETR-R50, bf16, batches of 2", "`transformers`", *pair)
    model, contiguous = ours(setting, words)
    model.to(memory_format=torch.contiguous_format)
    yield compared(
        setting,
        "training, DETR-R50, bf16",
        "ours, not channels-last",
        lambda: mine.train("bf16"),
        lambda: contiguous.train("bf16"),
    )


def family(name: str, setting: Setting) -> Iterator[str]:
    """Inference of a later detector, as large as it is published."""
    from transformers import AutoConfig

    layout, side = FAMILY[name]
    smaller = setting.square(side)
    model, mine = ours(smaller, f"detector={name}", criterion_too=False)
    config = AutoConfig.for_model(**layout.config_of(model), num_labels=CLASSES)
    other = theirs(smaller, config)
    what = f"inference, {name}, bf16"
    yield compared(smaller, what, "`transformers`", lambda: mine.infer("bf16"), lambda: other.infer("bf16"))


def graph(setting: Setting) -> Iterator[str]:
    """One image at a time: a captured graph asks the host for nothing."""
    if setting.device.type != "cuda":
        return
    single = replace(setting, batch=1)
    _, mine = ours(single, "experiment=detr_r50_coco", criterion_too=False)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        mine.infer("bf16"), mine.infer("bf16")
    torch.cuda.current_stream().wait_stream(side)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        mine.infer("bf16")
    what = "inference of one image as a CUDA graph, DETR-R50, bf16"
    yield compared(single, what, "ours, not captured", captured.replay, lambda: mine.infer("bf16"))


def compiled(setting: Setting) -> Iterator[str]:
    """The paper's detector with trainer.compile=true; its first step, which compiles, is timed apart."""
    model, mine = ours(setting, "experiment=detr_r50_coco")
    _, plain = ours(setting, "experiment=detr_r50_coco")
    compile_regions(model)
    started = time.perf_counter()
    mine.train("bf16")
    synchronize(setting.device)
    yield f"| seconds of the first step, which compiles | {time.perf_counter() - started:.1f} | | | |"
    steps = functools.partial(mine.train, "bf16"), functools.partial(plain.train, "bf16")
    yield compared(setting, "training, DETR-R50, bf16, trainer.compile=true", "ours, not compiled", *steps)


PARTS: dict[str, Callable[[Setting], Iterator[str]]] = {
    "detr_r50": detr_r50,
    **{name: functools.partial(family, name) for name in FAMILY},
    "graph": graph,
    "compile": compiled,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1066), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=75)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=[name for name in PARTS if name != "compile"])
    given = parser.parse_args()
    setting = Setting(torch.device(given.device), given.batch_size, tuple(given.size), given.steps, given.turns)
    started, failed = time.monotonic(), False
    device = torch.cuda.get_device_name() if setting.device.type == "cuda" else "CPU"
    print(f"{device}, torch {torch.__version__}, batches of {given.batch_size}, {given.size[0]} × {given.size[1]}")
    print("| images/s | ours | peer | ratio | peer |\n|---|---|---|---|---|", flush=True)
    for name in given.only:
        try:  # a detector that this version of transformers lacks leaves the others theirs
            for row in PARTS[name](setting):
                print(row, flush=True)
                if time.monotonic() - started > given.seconds:
                    raise SystemExit(f"not all was compared: {given.seconds:g} s are over")
        except Exception:
            failed = True
            traceback.print_exc()
        if setting.device.type == "cuda":
            torch.cuda.empty_cache()
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
