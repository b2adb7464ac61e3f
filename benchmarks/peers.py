"""What do Hugging Face's detectors learn on BCCD in the minutes that experiment=small_data is given?

    python benchmarks/peers.py --root ../shared/data/bccd [--models detr conditional deformable] [--minutes 1 10 30]

DETR, Conditional DETR and Deformable DETR (refinement, two stages) of `transformers`, with their own matching and
losses, the learning rates of their papers (a tenth for the backbone and for Deformable DETR's sampling offsets and
reference points) and 256-wide transformers of six and six layers; the backbone is ours, with the same ImageNet weights,
and so are batches, augmentation and COCO's numbers. Trained on train and val, the last weights evaluated on test. The
clock counts training steps, not evaluations. The rate is constant, and the numbers for several budgets are of one
training, evaluated when each is up.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detr.data.coco import CocoSplits
from detr.data.loader import EvalLoader, TrainLoader, eval_loader, train_loader
from detr.data.transforms import ShrinkLongSide, light_train
from detr.evaluation.coco import CocoEvaluator
from detr.evaluation.postprocess import postprocess
from detr.models.backbone import Backbone, Timm
from detr.structures import Batch, Predictions

QUERIES = 100
RATES = {"detr": 1e-4, "conditional": 1e-4, "deformable": 2e-4}
SLOW = re.compile(r"\.backbone\.|sampling_offsets|reference_points")
LEVELS = {"detr": 1, "conditional": 1, "deformable": 3}


class SharedBackbone(nn.Module):
    """Our backbone as Hugging Face's models ask for it: features, each with what is not padding."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        levels = self.backbone(pixel_values)
        masks = [F.interpolate(pixel_mask[None].float(), size=level.shape[-2:])[0].bool() for level in levels]
        return list(zip(levels, masks, strict=True))


def peer(name: str, num_classes: int) -> tuple[nn.Module, Backbone]:
    """A fresh model with our backbone."""
    import transformers

    backbone = Timm(
        name="tf_efficientnet_lite0",
        weights="package",
        levels=[-3, -2, -1][-LEVELS[name] :],
        trainable=[r"blocks\.[3-6]"],
    )
    placeholder = transformers.ResNetConfig(  # has as many channels, and is replaced
        embedding_size=4,
        hidden_sizes=[8, *([8] * (3 - LEVELS[name])), *backbone.channels],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"][-LEVELS[name] :],
    )
    common: dict[str, Any] = {"backbone_config": placeholder, "num_labels": num_classes, "num_queries": QUERIES}
    model: Any
    if name == "detr":
        model = transformers.DetrForObjectDetection(transformers.DetrConfig(auxiliary_loss=True, **common))
    elif name == "conditional":
        model = transformers.ConditionalDetrForObjectDetection(
            transformers.ConditionalDetrConfig(auxiliary_loss=True, **common)
        )
    else:
        model = transformers.DeformableDetrForObjectDetection(
            transformers.DeformableDetrConfig(
                auxiliary_loss=True,
                with_box_refine=True,
                two_stage=True,
                two_stage_num_proposals=QUERIES,
                tie_word_embeddings=False,
                class_cost=2,
                **common,
            )
        )
    if hasattr(model.model.backbone, "conv_encoder"):
        model.model.backbone.conv_encoder = SharedBackbone(backbone)
    else:
        model.model.backbone = SharedBackbone(backbone)
    return model, backbone


def labels_of(batch: Batch) -> list[dict[str, Tensor]]:
    """The targets as Hugging Face's losses read them."""
    targets = batch.targets
    return [
        {"class_labels": labels, "boxes": boxes}
        for labels, boxes in zip(targets.labels.split(targets.counts), targets.boxes.split(targets.counts), strict=True)
    ]


def endless(loader: TrainLoader) -> Iterator[Batch]:
    """Epoch after epoch."""
    epoch = 0
    while True:
        loader.set_epoch(epoch)
        yield from loader
        epoch += 1


@torch.inference_mode()
def evaluate(name: str, model: nn.Module, backbone: Backbone, loader: EvalLoader, evaluator: CocoEvaluator) -> Any:
    """COCO's numbers of a split."""
    model.eval()
    evaluator.reset()
    for batch in loader:
        output = model(backbone.normalize(batch.images, batch.padding), pixel_mask=(~batch.padding).long())
        detections = postprocess(
            Predictions(output.logits[None], output.pred_boxes[None]),
            batch.original_sizes,
            classification="softmax" if name == "detr" else "sigmoid",
        )
        evaluator.update(batch.image_ids, detections)
    model.train()
    return evaluator.compute()


def run(name: str, data: CocoSplits, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Train one peer; a row for each budget."""
    torch.manual_seed(arguments.seed)
    train_set = data.split("train", transform=light_train(arguments.max_size), seed=arguments.seed)
    test_set = data.split("test", transform=ShrinkLongSide(arguments.max_size))
    loader = train_loader(train_set, batch_size=arguments.batch_size, num_workers=2, seed=arguments.seed)
    test_loader = eval_loader(test_set, batch_size=arguments.batch_size, num_workers=2)
    evaluator = CocoEvaluator(backend="hotcoco", ground_truth=test_set.ground_truth(), classes=test_set.classes)
    model, backbone = peer(name, data.classes.num_classes)
    slow = [p for n, p in model.named_parameters() if p.requires_grad and SLOW.search(n)]
    others = [p for n, p in model.named_parameters() if p.requires_grad and not SLOW.search(n)]
    groups = [{"params": slow, "lr": RATES[name] / 10}, {"params": others}]
    optimizer = torch.optim.AdamW(groups, lr=RATES[name], weight_decay=1e-4)
    model.train()
    batches, spent, steps = endless(loader), 0.0, 0
    for minutes in sorted(arguments.minutes):
        while spent < 60 * minutes:
            start = time.monotonic()
            batch = next(batches)
            images = backbone.normalize(batch.images, batch.padding)
            model(images, pixel_mask=(~batch.padding).long(), labels=labels_of(batch)).loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()
            steps += 1
            spent += time.monotonic() - start
        numbers = evaluate(name, model, backbone, test_loader, evaluator).named()
        yield {"model": name, "minutes": minutes, "steps": steps, "AP": numbers["AP"], "AP50": numbers["AP50"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True)
    parser.add_argument("--models", nargs="+", choices=list(RATES), default=list(RATES))
    parser.add_argument("--minutes", nargs="+", type=float, default=[1, 10, 30])
    parser.add_argument("--max-size", type=int, default=416, help="longer side of the images in pixels")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--output", type=Path, help="a JSON file, one row a line")
    arguments = parser.parse_args()
    root = arguments.root
    files = {
        name: {"images": f"{root}/images", "annotations": [f"{root}/annotations/{each}.json" for each in splits]}
        for name, splits in {"train": ["train", "val"], "val": ["val"], "test": ["test"]}.items()
    }
    data = CocoSplits(root=root, categories="contiguous", **files)
    for name in arguments.models:
        for row in run(name, data, arguments):
            print(row, flush=True)
            if arguments.output is not None:
                with arguments.output.open("a") as file:
                    file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
