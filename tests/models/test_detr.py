"""Properties of whole detectors: batches, padding, gradients, what fits what."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from builders import CLASSES, random_images, tiny_detr
from torch import Tensor, nn

from detr.models.anchor import AnchorDecoder
from detr.models.backbone import ResNet
from detr.models.box_coder import LogitBoxCoder
from detr.models.decoder import TransformerDecoder
from detr.models.detr import DETR
from detr.models.encoder import TransformerEncoder
from detr.models.layers import LayerConfig
from detr.models.neck import Neck
from detr.models.position_embedding import SinePositionEmbedding
from detr.models.queries import AnchorQueries, LearnedQueries
from detr.models.two_stage import TwoStageQueries
from detr.structures import Predictions

KINDS = pytest.mark.parametrize("queries", ["learned", "anchors", "two_stage"])


def assert_same(first: Predictions, second: Predictions, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(first.logits, second.logits, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(first.boxes, second.boxes, rtol=tolerance, atol=tolerance)


def of_images(predictions: Predictions, images: list[int]) -> Predictions:
    return Predictions(predictions.logits[:, images], predictions.boxes[:, images])


@KINDS
@torch.no_grad()
def test_batched_equals_single(queries: Any) -> None:
    model = tiny_detr(queries=queries)
    images, padding = random_images([(64, 96)] * 3)
    together = model(images, padding)
    assert together.logits.shape == (2, 3, 7, CLASSES + 1)
    assert together.logits[:, 0].sub(together.logits[:, 1]).abs().max() > 1e-3  # the images do differ
    for index in range(3):
        alone = model(images[index : index + 1], padding[index : index + 1])
        assert_same(alone, of_images(together, [index]))


@KINDS
@torch.no_grad()
def test_permuting_the_batch(queries: Any) -> None:
    model = tiny_detr(queries=queries)
    images, padding = random_images([(64, 96), (96, 64), (80, 90)])
    order = [2, 0, 1]
    assert_same(model(images[order], padding[order]), of_images(model(images, padding), order))


def pad(images: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """More padding at the bottom and right of images [B, 3, h, w] that have none."""
    larger = torch.zeros(len(images), 3, height, width)
    padding = torch.ones(len(images), height, width, dtype=torch.bool)
    larger[..., : images.shape[-2], : images.shape[-1]] = images
    padding[..., : images.shape[-2], : images.shape[-1]] = False
    return larger, padding


@torch.no_grad()
def test_padding_reaches_features_near_the_border_only() -> None:
    """A backbone's features depend on padding where their receptive field crosses the border, and nowhere else.

    Padding is the mean colour, that is zeros, as what convolutions pad with; but behind the first layer the padded
    area holds the response to the border, and beyond the edge of an unpadded image there are zeros. The difference
    is large at the border. The paper's code has the same property: batched equals single for equal sizes only.
    """
    backbone, field = tiny_detr().backbone, 435  # receptive field of resnet18's layer4, in pixels
    images, none = random_images([(64, 512)])
    larger, padding = pad(images, 64, 608)
    alone, padded = (backbone(backbone.normalize(*each))[0] for each in ((images, none), (larger, padding)))
    difference = (alone - padded[..., :16]).abs().amax((0, 1, 2)) / alone.abs().max()
    untouched = [column for column in range(16) if 32 * column + field // 2 < 512]
    assert len(untouched) == 10
    assert difference[untouched].max() < 1e-6
    assert difference[-1] > 0.05


@torch.no_grad()
def test_padding_changes_nothing_behind_the_backbone() -> None:
    """Attention never sees padded tokens, and sine positions are relative to what is not padding: exactly invariant,
    for images whose sides are multiples of the stride (others lose up to a feature to rounding)."""
    model = tiny_detr()
    images, none = random_images([(64, 96)])
    larger, padding = pad(images, 128, 160)
    features = torch.randn(1, 512, 2, 3)
    more = torch.randn(1, 512, 4, 5)  # whatever lies in the padding
    more[..., :2, :3] = features
    assert_same(after_backbone(model, [features], none), after_backbone(model, [more], padding))

    larger[padding[:, None].expand_as(larger)] = 0.8  # nor does what images hold where they are padding
    assert_same(model(larger, padding), model(*pad(images, 128, 160)), tolerance=0)


def after_backbone(model: DETR, features: list[Tensor], padding: Tensor) -> Predictions:
    memory = model.encoder(model.neck(features, padding))
    decoded = model.decoder(model.queries(memory), memory, model.box_head)
    return Predictions(model.class_head(decoded), decoded.boxes)


@torch.no_grad()
def test_images_may_be_bytes() -> None:
    model = tiny_detr()
    images, padding = random_images([(64, 64)])
    pixels = (images * 255).round().to(torch.uint8)
    assert_same(model(pixels, padding), model(pixels / 255, padding))


@torch.no_grad()
def test_dropout_only_while_training() -> None:
    model = tiny_detr(dropout=0.3)
    batch = random_images([(64, 64)])
    assert_same(model(*batch), model(*batch), tolerance=0)
    model.train()
    assert (model(*batch).logits - model(*batch).logits).abs().max() > 1e-3


@KINDS
@torch.no_grad()
def test_any_number_of_the_first_layers_is_a_decoder(queries: Any) -> None:
    """In evaluations only: what they say is what they say among all."""
    model = tiny_detr(queries=queries, layers=3)
    batch = random_images([(64, 96), (96, 64)])
    everything = model(*batch)
    for layers in (1, 2):
        model.decoder.eval_layers = layers
        first = model(*batch)
        assert len(first.logits) == layers
        assert_same(first, Predictions(everything.logits[:layers], everything.boxes[:layers]))
    assert len(model.train()(*batch).logits) == 3


@torch.no_grad()
def test_heads_of_their_own_for_each_layer() -> None:
    model = tiny_detr(queries="anchors", layers=3, heads_per_layer=True)
    batch = random_images([(64, 96)])
    before = model(*batch)
    model.class_head[1].bias += 1
    after = model(*batch)
    torch.testing.assert_close(after.logits[1], before.logits[1] + 1)
    torch.testing.assert_close(after.logits[[0, 2]], before.logits[[0, 2]])
    model.decoder.eval_layers = 2
    assert_same(model(*batch), Predictions(after.logits[:2], after.boxes[:2]))


def test_decoder_and_queries_must_fit() -> None:
    layer, coder = LayerConfig(d_model=32), LogitBoxCoder()

    def build(decoder: Any, queries: Any) -> DETR:
        return DETR(
            backbone=ResNet(name="resnet18", weights=None),
            neck=functools.partial(Neck, d_model=32, position_embedding=SinePositionEmbedding(d_model=32)),
            encoder=TransformerEncoder(num_layers=1, layer=layer),
            decoder=decoder(num_layers=1, layer=layer),
            queries=functools.partial(queries, d_model=32, box_coder=coder),
            num_classes=CLASSES,
            d_model=32,
        )

    with pytest.raises(ValueError, match="queries=anchors or two_stage"):
        build(functools.partial(AnchorDecoder, box_coder=coder), LearnedQueries)
    for queries in (AnchorQueries, TwoStageQueries):
        with pytest.raises(ValueError, match=r"use queries=learned, or another transformer/decoder"):
            build(TransformerDecoder, queries)


@pytest.mark.parametrize(("classification", "columns"), [("softmax", CLASSES + 1), ("sigmoid", CLASSES)])
def test_classification_decides_columns_and_bias(classification: Any, columns: int) -> None:
    model = tiny_detr(classification=classification, queries="two_stage")
    for head in (model.class_head, model.queries.class_head):
        assert head.out_features == columns
        if classification == "sigmoid":
            torch.testing.assert_close(head.bias.sigmoid(), torch.full((columns,), 0.01))
        else:
            assert head.bias.std() > 0


def test_initialisation() -> None:
    """Xavier's bound in every matrix of the transformer, and nothing outside of it touched."""
    model = tiny_detr()
    for part in (model.encoder, model.decoder):
        for name, matrix in part.named_parameters():
            if matrix.dim() > 1:
                bound = (6 / sum(matrix.shape)) ** 0.5
                assert 0.8 * bound < matrix.abs().max() <= bound, name
    assert 0.8 < model.queries.embedding.weight.std() < 1.2  # N(0, 1)
    assert model.class_head.weight.abs().max() <= 32**-0.5  # nn.Linear's own


def test_bf16_autocast_trains() -> None:
    model = tiny_detr(queries="two_stage").train()
    with torch.autocast("cpu", torch.bfloat16):
        predictions = model(*random_images([(64, 64), (48, 64)]))
    assert predictions.boxes.dtype == torch.float32
    predictions.logits.float().sum().backward()
    assert predictions.logits.isfinite().all()


class LastLayer(nn.Module):
    """Tensors in, tensors out."""

    def __init__(self, model: DETR) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
        predictions = self.model(images, padding)
        return predictions.logits[-1], predictions.boxes[-1]


@pytest.mark.slow
@KINDS
@torch.no_grad()
def test_export(queries: Any) -> None:
    model = LastLayer(tiny_detr(queries=queries)).eval()
    batch = random_images([(64, 64), (48, 64)])
    exported = torch.export.export(model, batch).module()
    for ours, theirs in zip(model(*batch), exported(*batch), strict=True):
        torch.testing.assert_close(ours, theirs)
