"""Small detectors, predictions and objects that several test files build on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from detr.losses.matched import Matched
from detr.losses.matcher import HungarianMatcher
from detr.models.anchor import AnchorDecoder
from detr.models.backbone import ResNet
from detr.models.box_coder import LogitBoxCoder
from detr.models.d_fine import DFineDecoder
from detr.models.dab import DabDecoder, DabEncoder
from detr.models.decoder import Decoder, TransformerDecoder
from detr.models.deformable import DeformableDecoder, DeformableEncoder
from detr.models.denoising import Denoising
from detr.models.detr import DETR
from detr.models.encoder import Encoder, TransformerEncoder
from detr.models.groups import OneToMany
from detr.models.hybrid_encoder import HybridEncoder
from detr.models.layers import LayerConfig
from detr.models.mask_head import MaskHead
from detr.models.neck import Neck
from detr.models.position_embedding import SinePositionEmbedding
from detr.models.queries import AnchorQueries, LearnedQueries
from detr.models.top_down import TopDownEncoder
from detr.models.two_stage import TwoStageQueries
from detr.structures import Classification, Matches, Normalizer, Predictions, Targets

CLASSES = 3


def tiny_detr(
    *,
    queries: Literal["learned", "anchors", "two_stage"] = "learned",
    transformer: Literal["standard", "dab", "deformable", "hybrid", "d_fine"] = "standard",
    classification: Classification = "softmax",
    num_queries: int = 7,
    dropout: float = 0.0,
    layers: int = 2,
    masks: bool = False,
    num_classes: int = CLASSES,
    denoising: Callable[..., Denoising] | None = None,
    one_to_many: OneToMany | None = None,
    heads_per_layer: bool = False,
    class_agnostic: bool = False,
    trainable: Sequence[str] = (r"layer[2-4]",),
    seed: int = 0,
) -> DETR:
    """A detector on resnet18, in evaluation mode: the paper's, or one with anchors on a single or on three levels.

    `transformer`: DAB-DETR's or Deformable DETR's encoder and decoder; for three levels RT-DETR's encoder.
    """
    torch.manual_seed(seed)
    several = queries == "two_stage"
    width = 32
    layer = LayerConfig(d_model=width, num_heads=4, dim_feedforward=48, dropout=dropout)
    kinds = {
        "learned": LearnedQueries,
        "anchors": AnchorQueries,
        "two_stage": functools.partial(TwoStageQueries, anchor_side=0.1, class_agnostic=class_agnostic),
    }
    needed = 3 if several else 1
    encoder, decoder = _transformer(transformer, levels=needed, anchors=queries != "learned")
    model = DETR(
        backbone=ResNet(name="resnet18", weights=None, levels=range(-4 if masks else -needed, 0), trainable=trainable),
        neck=functools.partial(
            Neck,
            num_levels=needed,
            d_model=width,
            position_embedding=SinePositionEmbedding(d_model=width),
            normalization="group" if several else "none",
            level_embedding=several,
        ),
        encoder=encoder(num_layers=1, layer=layer),
        decoder=decoder(num_layers=layers, layer=layer),
        queries=functools.partial(kinds[queries], num_queries=num_queries, d_model=width, box_coder=LogitBoxCoder()),
        mask_head=functools.partial(MaskHead, d_model=width, num_heads=8) if masks else None,
        denoising=None if denoising is None else functools.partial(denoising, d_model=width, box_coder=LogitBoxCoder()),
        one_to_many=one_to_many,
        heads_per_layer=heads_per_layer,
        num_classes=num_classes,
        d_model=width,
        classification=classification,
    )
    return model.eval()


def _transformer(name: str, *, levels: int, anchors: bool) -> tuple[Callable[..., Encoder], Callable[..., Decoder]]:
    """What `tiny_detr` builds encoder and decoder with."""
    coder = LogitBoxCoder()
    anchored = functools.partial(AnchorDecoder, box_coder=coder)
    return {
        "standard": (
            TopDownEncoder if levels > 1 else TransformerEncoder,
            anchored if anchors else TransformerDecoder,
        ),
        "dab": (DabEncoder, functools.partial(DabDecoder, box_coder=coder)),
        "deformable": (
            functools.partial(DeformableEncoder, num_levels=levels),
            functools.partial(DeformableDecoder, num_levels=levels, box_coder=coder),
        ),
        "hybrid": (HybridEncoder, anchored),
        "d_fine": (TopDownEncoder, functools.partial(DFineDecoder, num_levels=levels, box_coder=coder)),
    }[name]


def random_boxes(count: int, generator: torch.Generator) -> Tensor:
    """cxcywh boxes inside the image, [count, 4]."""
    sizes = 0.05 + 0.4 * torch.rand(count, 2, generator=generator)
    centres = sizes / 2 + (1 - sizes) * torch.rand(count, 2, generator=generator)
    return torch.cat([centres, sizes], -1)


def random_targets(
    counts: Sequence[int], *, classes: int = CLASSES, masks: tuple[int, int] | None = None, seed: int = 0
) -> Targets:
    """As many objects an image as `counts` says; with `masks`, pixels of that (height, width) drawn one by one."""
    generator = torch.Generator().manual_seed(seed)
    return Targets.of(
        [torch.randint(classes, (count,), generator=generator) for count in counts],
        [random_boxes(count, generator) for count in counts],
        None if masks is None else [torch.rand(count, *masks, generator=generator) < 0.4 for count in counts],
    )


def random_predictions(
    images: int, *, queries: int = 9, logits: int = CLASSES + 1, layers: int = 2, seed: int = 0
) -> Predictions:
    """Outputs that ask for gradients."""
    generator = torch.Generator().manual_seed(seed + 1000)
    boxes = random_boxes(layers * images * queries, generator).view(layers, images, queries, 4)
    scores = 2 * torch.randn(layers, images, queries, logits, generator=generator)
    return Predictions(scores.requires_grad_(), boxes.requires_grad_())


def match(predictions: Predictions, targets: Targets, classification: Classification = "softmax") -> dict[str, Matches]:
    """The pairs of every group, "" being the predictions themselves."""
    return HungarianMatcher(classification=classification)(predictions.supervised(), targets)


def matched(
    predictions: Predictions,
    targets: Targets,
    normalizer: Normalizer,
    matches: Matches | None = None,
    classification: Classification = "softmax",
) -> Matched:
    """What loss terms see of the predictions themselves."""
    pairs = match(predictions, targets, classification)[""] if matches is None else matches
    return Matched(predictions, targets, pairs, normalizer, {})


def random_images(sizes: Sequence[tuple[int, int]], *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noise of the given (height, width), padded to a batch: images [B, 3, H, W] in [0, 1], padding [B, H, W]."""
    generator = torch.Generator().manual_seed(seed)
    height, width = (max(side) for side in zip(*sizes, strict=True))
    images = torch.zeros(len(sizes), 3, height, width)
    padding = torch.ones(len(sizes), height, width, dtype=torch.bool)
    for index, (h, w) in enumerate(sizes):
        images[index, :, :h, :w] = torch.rand(3, h, w, generator=generator)
        padding[index, :h, :w] = False
    return images, padding
