"""Conditional DETR, DAB-DETR, Deformable DETR and RT-DETR's encoder against Hugging Face's with the same weights.

From the features on: both read the same small backbone; test_hugging_face.py compares real ones.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import pytest
import torch
from builders import random_images
from hugging_face_family import (
    CHANNELS,
    CONDITIONAL,
    DAB,
    RT_ENCODER,
    Pyramid,
    Table,
    TheirBackbone,
    deformable_table,
    give_values_that_matter,
    renamed,
    state_without_backbone,
)
from torch import nn

from detr.models.box_coder import LogitBoxCoder
from detr.models.conditional import ConditionalDecoder
from detr.models.dab import DabDecoder, DabEncoder
from detr.models.deformable import DeformableDecoder, DeformableEncoder
from detr.models.detr import DETR
from detr.models.encoder import TransformerEncoder
from detr.models.hybrid_encoder import HybridEncoder
from detr.models.layers import LayerConfig
from detr.models.neck import Neck
from detr.models.position_embedding import SinePositionEmbedding
from detr.models.queries import AnchorQueries, LearnedQueries
from detr.models.structures import Decoded, Features
from detr.models.two_stage import TwoStageQueries

CLASSES, QUERIES, LAYERS, WIDTH, HIDDEN, HEADS = 5, 6, 3, 64, 48, 4
LAYER = LayerConfig(d_model=WIDTH, num_heads=HEADS, dim_feedforward=HIDDEN, dropout=0.1)
CODER = LogitBoxCoder()
THEIR_SIZES = {
    "num_labels": CLASSES,
    "num_queries": QUERIES,
    "encoder_layers": 2,
    "decoder_layers": LAYERS,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": HIDDEN,
    "decoder_ffn_dim": HIDDEN,
}


def their_backbone_config(levels: int) -> Any:
    from transformers import ResNetConfig

    return ResNetConfig(
        embedding_size=4,
        hidden_sizes=[8, *CHANNELS],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"][-levels:],
    )


def detector(neck: dict[str, Any], positions: dict[str, Any], levels: int = 1, **parts: Any) -> DETR:
    model = DETR(
        backbone=Pyramid(levels),
        neck=functools.partial(
            Neck, d_model=WIDTH, position_embedding=SinePositionEmbedding(d_model=WIDTH, **positions), **neck
        ),
        num_classes=CLASSES,
        d_model=WIDTH,
        classification="sigmoid",
        **parts,
    )
    give_values_that_matter(model)
    return model.eval()


def conditional() -> tuple[DETR, nn.Module]:
    from transformers import ConditionalDetrConfig, ConditionalDetrForObjectDetection

    torch.manual_seed(0)
    ours = detector(
        {},
        {},
        encoder=TransformerEncoder(num_layers=2, layer=LAYER),
        decoder=ConditionalDecoder(num_layers=LAYERS, layer=LAYER, box_coder=CODER),
        queries=functools.partial(LearnedQueries, num_queries=QUERIES, d_model=WIDTH, box_coder=CODER),
    )
    config = ConditionalDetrConfig(backbone_config=their_backbone_config(1), d_model=WIDTH, **THEIR_SIZES)
    return ours, with_our_weights(ConditionalDetrForObjectDetection(config), ours, CONDITIONAL)


def dab() -> tuple[DETR, nn.Module]:
    from transformers import DabDetrConfig, DabDetrForObjectDetection

    torch.manual_seed(1)
    ours = detector(
        {},
        {"temperature": 20},
        encoder=DabEncoder(num_layers=2, layer=replace(LAYER, activation="prelu")),
        decoder=DabDecoder(num_layers=LAYERS, layer=replace(LAYER, activation="prelu"), box_coder=CODER),
        queries=functools.partial(
            AnchorQueries, num_queries=QUERIES, d_model=WIDTH, box_coder=CODER, learn_content=False
        ),
    )
    config = DabDetrConfig(backbone_config=their_backbone_config(1), hidden_size=WIDTH, **THEIR_SIZES)
    return ours, with_our_weights(DabDetrForObjectDetection(config), ours, DAB)


def deformable(*, refine: bool, two_stage: bool) -> tuple[DETR, nn.Module]:
    from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection

    torch.manual_seed(2)
    queries: Any = functools.partial(LearnedQueries, learn_content=True)
    if two_stage:
        queries = functools.partial(
            TwoStageQueries, anchor_side=0.05, content="anchors", class_agnostic=True, border=0.01
        )
    ours = detector(
        {"num_levels": 4, "extra_levels": 1, "normalization": "group", "level_embedding": True},
        {"centered": True},
        levels=3,
        encoder=DeformableEncoder(num_layers=2, layer=LAYER, num_levels=4),
        decoder=DeformableDecoder(num_layers=LAYERS, layer=LAYER, num_levels=4, refine=refine, box_coder=CODER),
        queries=functools.partial(queries, num_queries=QUERIES, d_model=WIDTH, box_coder=CODER),
        heads_per_layer=refine,
    )
    if two_stage:
        hush_padding(ours.queries)
    config = DeformableDetrConfig(
        backbone_config=their_backbone_config(3),
        d_model=WIDTH,
        with_box_refine=refine,
        two_stage=two_stage,
        two_stage_num_proposals=QUERIES,
        tie_word_embeddings=False,  # each layer has heads of its own, as in the authors' code
        **THEIR_SIZES,
    )
    theirs = DeformableDetrForObjectDetection(config)
    table = deformable_table(LAYERS, refine=refine, two_stage=two_stage)
    return ours, with_our_weights(theirs, ours, table)


@torch.no_grad()
def hush_padding(queries: TwoStageQueries) -> None:
    """Theirs lets padding propose, with zeros for its tokens; ours never does. So it had better not be the loudest."""
    nothing = queries.token_head(torch.zeros(1, WIDTH))
    score = queries.class_head(Decoded(nothing, nothing))
    queries.class_head.weight -= (score + 3) * nothing / nothing.square().sum()


def with_our_weights(theirs: nn.Module, ours: DETR, table: Table) -> nn.Module:
    state = renamed(state_without_backbone(ours), table)
    fresh = {name: value for name, value in theirs.state_dict().items() if "backbone" not in name}
    for name, value in state.items():  # theirs proposes with all classes, but looks at the first only
        if value.shape[0] == 1 and fresh[name].shape[0] == CLASSES:
            state[name] = fresh[name].clone()
            state[name][:1] = value
    assert state.keys() == fresh.keys()
    assert theirs.load_state_dict(state, strict=False).unexpected_keys == []
    assert isinstance(ours.backbone, Pyramid)
    if hasattr(theirs.model.backbone, "conv_encoder"):
        theirs.model.backbone.conv_encoder = TheirBackbone(ours.backbone)
    else:
        theirs.model.backbone = TheirBackbone(ours.backbone)
    return theirs.eval()


@pytest.mark.parametrize(
    "build",
    [
        conditional,
        dab,
        functools.partial(deformable, refine=False, two_stage=False),
        functools.partial(deformable, refine=True, two_stage=False),
        functools.partial(deformable, refine=True, two_stage=True),
    ],
    ids=["conditional", "dab", "deformable", "deformable_refined", "deformable_two_stage"],
)
@torch.no_grad()
def test_detectors(build: Any) -> None:
    """The last layer, which everything before it shows in; images of three sizes, so that there is padding; and a
    wide one, whose outermost tokens of the finest level do not propose."""
    ours, theirs = build()
    images, padding = random_images([(160, 224), (224, 128), (64, 480)])
    predictions = ours(images, padding)
    expected = theirs(pixel_values=ours.backbone.normalize(images, padding), pixel_mask=(~padding).long())
    assert predictions.logits[-1].std(1).mean() > 1e-2  # queries differ: the comparison is not one of constants
    assert predictions.boxes[-1].std(1).mean() > 1e-2
    for mine, their in ((predictions.logits[-1], expected.logits), (predictions.boxes[-1], expected.pred_boxes)):
        torch.testing.assert_close(mine, their, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_hybrid_encoder() -> None:
    from transformers import RTDetrConfig
    from transformers.models.rt_detr.modeling_rt_detr import RTDetrHybridEncoder, RTDetrSinePositionEmbedding

    torch.manual_seed(3)
    ours = HybridEncoder(num_levels=3, layer=replace(LAYER, activation="gelu")).eval()
    give_values_that_matter(ours)
    config = RTDetrConfig(encoder_hidden_dim=WIDTH, encoder_ffn_dim=HIDDEN, encoder_attention_heads=HEADS)
    theirs = RTDetrHybridEncoder(config).eval()
    theirs.load_state_dict(renamed(ours.state_dict(), RT_ENCODER), strict=True)
    shapes = [(24, 32), (12, 16), (6, 8)]
    maps = [torch.randn(2, WIDTH, *shape) for shape in shapes]
    positions = [
        RTDetrSinePositionEmbedding(WIDTH)(width, height, torch.device("cpu"), torch.float32).mT.unflatten(
            -1, (height, width)
        )
        for height, width in shapes
    ]
    features = Features(
        maps,
        [torch.zeros(2, *shape, dtype=torch.bool) for shape in shapes],
        [p.expand(2, -1, -1, -1) for p in positions],
        [8, 16, 32],
    )
    memory = ours(features)
    expected = theirs(inputs_embeds=list(maps)).last_hidden_state
    assert memory.shapes == shapes
    for level, their in zip(memory.tokens.split([h * w for h, w in shapes], 1), expected, strict=True):
        assert their.std() > 0.1
        torch.testing.assert_close(level, their.flatten(2).mT, rtol=1e-4, atol=1e-4)
