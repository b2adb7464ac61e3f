"""Each kind of transformer learns four small images by heart, within steps that leave an untrained one far behind."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import pytest
import torch
from hugging_face_family import Pyramid
from torch import Tensor, nn

from detr.losses.criterion import SetCriterion
from detr.losses.distributions import DistributionDistillation, FineGrainedLocalization
from detr.losses.matchability import Matchability
from detr.losses.matcher import HungarianMatcher
from detr.losses.terms import L1, Focal, GIoU, Varifocal
from detr.models.box_coder import LogitBoxCoder
from detr.models.conditional import ConditionalDecoder
from detr.models.d_fine import DFineDecoder
from detr.models.d_fine_encoder import DFineEncoder
from detr.models.dab import DabDecoder, DabEncoder
from detr.models.deformable import DeformableDecoder, DeformableEncoder
from detr.models.denoising import ContrastiveDenoising, Denoising
from detr.models.detr import DETR
from detr.models.groups import GroupMatching, HybridMatching
from detr.models.hybrid_encoder import HybridEncoder
from detr.models.layers import LayerConfig
from detr.models.neck import Neck
from detr.models.position_embedding import SinePositionEmbedding
from detr.models.queries import AnchorQueries, LearnedQueries
from detr.models.two_stage import TwoStageQueries
from detr.structures import Normalizer, Targets

WIDTH, SIDE, STEPS = 32, 64, 120
LAYER = LayerConfig(d_model=WIDTH, num_heads=4, dim_feedforward=64, dropout=0.0)
CODER = LogitBoxCoder()
PROPOSALS = functools.partial(TwoStageQueries, anchor_side=0.1)

DETECTORS: dict[str, dict[str, Any]] = {
    "deformable, two stages, contrastive denoising": {
        "encoder": lambda: DeformableEncoder(num_layers=1, layer=LAYER, num_levels=3),
        "decoder": lambda: DeformableDecoder(num_layers=2, layer=LAYER, num_levels=3, box_coder=CODER),
        "queries": PROPOSALS,
        "denoising": functools.partial(ContrastiveDenoising, d_model=WIDTH, num_queries=8, box_coder=CODER),
    },
    "deformable, points": {
        "encoder": lambda: DeformableEncoder(num_layers=1, layer=LAYER, num_levels=3),
        "decoder": lambda: DeformableDecoder(num_layers=2, layer=LAYER, num_levels=3, box_coder=CODER),
        "queries": functools.partial(LearnedQueries, learn_content=True),
    },
    "dab, denoising, groups": {
        "encoder": lambda: DabEncoder(num_layers=1, layer=LAYER),
        "decoder": lambda: DabDecoder(num_layers=2, layer=replace(LAYER, activation="prelu"), box_coder=CODER),
        "queries": AnchorQueries,
        "denoising": functools.partial(Denoising, d_model=WIDTH, box_coder=CODER),
        "one_to_many": GroupMatching(groups=3),
    },
    "hybrid encoder, conditional, hybrid matching": {
        "encoder": lambda: HybridEncoder(num_layers=1, layer=LAYER, num_levels=3),
        "decoder": lambda: ConditionalDecoder(num_layers=2, layer=LAYER, box_coder=CODER),
        "queries": LearnedQueries,
        "one_to_many": HybridMatching(num_queries=20, copies=3),
    },
    "rt_detr": {
        "encoder": lambda: HybridEncoder(num_layers=1, layer=LAYER, num_levels=3),
        "decoder": lambda: DeformableDecoder(num_layers=2, layer=LAYER, num_levels=3, box_coder=CODER),
        "queries": PROPOSALS,
        "term": Varifocal(),
    },
    "d_fine": {
        "encoder": lambda: DFineEncoder(num_layers=1, layer=LAYER, num_levels=3, num_blocks=1),
        "decoder": lambda: DFineDecoder(num_layers=2, layer=LAYER, num_levels=3, box_coder=CODER),
        "queries": functools.partial(TwoStageQueries, anchor_side=0.1, copies=1, supervised="chosen"),
        "heads_per_layer": True,
        "term": Matchability(),
        "further": {"fgl": FineGrainedLocalization(), "ddf": DistributionDistillation()},
    },
}


def coloured_rectangles() -> tuple[Tensor, Targets]:
    """Four images with two rectangles each, whose colour is their class."""
    generator = torch.Generator().manual_seed(0)
    images, boxes, labels = torch.zeros(4, 3, SIDE, SIDE), torch.zeros(4, 2, 4), torch.zeros(4, 2, dtype=torch.long)
    for image in range(4):
        for number in range(2):
            width, height = torch.randint(14, 26, (2,), generator=generator).tolist()
            x, y = (int(torch.randint(SIDE - side, (), generator=generator)) for side in (width, height))
            label = int(torch.randint(3, (), generator=generator))
            images[image, label, y : y + height, x : x + width] = 1
            boxes[image, number] = torch.tensor([x + width / 2, y + height / 2, width, height]) / SIDE
            labels[image, number] = label
    return images, Targets.of(list(labels), list(boxes))


@pytest.mark.slow
@pytest.mark.parametrize("name", DETECTORS)
def test_learns_by_heart(name: str) -> None:
    torch.manual_seed(1)
    parts = dict(DETECTORS[name])
    term: nn.Module = parts.pop("term", Focal())
    further: dict[str, Any] = parts.pop("further", {})
    positions = SinePositionEmbedding(d_model=WIDTH)
    model = DETR(
        backbone=Pyramid(),
        neck=functools.partial(Neck, num_levels=3, d_model=WIDTH, position_embedding=positions, normalization="group"),
        encoder=parts.pop("encoder")(),
        decoder=parts.pop("decoder")(),
        queries=functools.partial(parts.pop("queries"), num_queries=10, d_model=WIDTH, box_coder=CODER),
        num_classes=3,
        d_model=WIDTH,
        classification="sigmoid",
        **parts,
    ).train()
    criterion = SetCriterion(
        matcher=HungarianMatcher(classification="sigmoid", cost_class=2),
        terms={"class": term, "bbox": L1(weight=5), "giou": GIoU(weight=2), **further},  # type: ignore[dict-item]
        classification="sigmoid",
        unite_matches=bool(further),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0)
    images, targets = coloured_rectangles()
    padding = torch.zeros(4, SIDE, SIDE, dtype=torch.bool)
    history = []
    for _ in range(STEPS):
        losses = criterion(model(images, padding, targets), targets, Normalizer(objects=8, images=4))
        optimizer.zero_grad()
        losses.total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        history.append(losses.terms["giou"][-1].item() / 2)
    assert history[0] > 0.7
    assert history[-1] < 0.25  # a GIoU above 0.75 on average
