"""The detector: assembly and forward pass (DETR, section 3.2; facebookresearch/detr, models/detr.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from detr.models.backbone import Backbone
from detr.models.decoder import Decoder
from detr.models.denoising import Denoising
from detr.models.groups import OneToMany, matching_count, separate
from detr.models.layers import MLP, PerLayer, class_head
from detr.models.mask_head import MaskHead
from detr.models.neck import Neck
from detr.models.queries import Queries
from detr.models.transformer import Encoder
from detr.structures import Classification, Predictions, QuerySet, Targets


class DETR(nn.Module):
    """A backbone, a transformer, and two heads on every layer of its decoder.

    Args:
        backbone: images → levels of features.
        neck: a factory, since the backbone says how many channels its levels have.
        encoder: features → memory.
        decoder: queries and memory → hidden states and boxes.
        queries: a factory, since the data set says how many classes there are.
        mask_head: a factory, as the neck; null: boxes only.
        denoising: a factory, as the queries; null: none.
        one_to_many: further queries while training; null: none.
        d_model: width of the transformer.
        classification: softmax (with a no-object column, the last) or sigmoid.
        heads_per_layer: each decoder layer has heads of its own (Deformable DETR with refinement); else all share them.
        num_classes: classes of the data set.

    Raises:
        ValueError: parts that do not fit each other.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        neck: Callable[..., Neck],
        encoder: Encoder,
        decoder: Decoder,
        queries: Callable[..., Queries],
        num_classes: int,
        mask_head: Callable[..., MaskHead] | None = None,
        denoising: Callable[..., Denoising] | None = None,
        one_to_many: OneToMany | None = None,
        d_model: int = 256,
        classification: Classification = "softmax",
        heads_per_layer: bool = False,
    ) -> None:
        super().__init__()
        sigmoid = classification == "sigmoid"
        num_logits = num_classes if sigmoid else num_classes + 1
        self.classification = classification
        self.backbone = backbone
        self.neck = neck(channels=backbone.channels)
        self.encoder = encoder
        self.queries = queries(num_logits=num_logits, sigmoid=sigmoid, one_to_many=one_to_many)
        self.decoder = decoder
        layers = len(decoder.layers) if heads_per_layer else None
        self.class_head = _for_layers(layers, lambda: class_head(d_model, num_logits, sigmoid=sigmoid))
        self.box_head = _for_layers(layers, lambda: MLP(d_model, d_model, 4, 3))
        self.mask_head = (
            None if mask_head is None else mask_head(channels=backbone.channels, num_levels=self.neck.backbone_levels)
        )
        self.denoising = None if denoising is None else denoising(num_classes=num_classes)
        self.one_to_many = one_to_many
        check_parts(
            decoder,
            self.queries,
            denoising=denoising is not None,
            levels={"encoder": encoder.num_levels, "decoder": decoder.num_levels},
            neck_levels=self.neck.num_levels,
        )
        if not (encoder.reads_positions or decoder.reads_positions):
            self.neck.freeze_positions()
        decoder.fit(self.queries, d_model)
        decoder.start_boxes(self.box_head)

    def forward(self, images: Tensor, padding: Tensor, targets: Targets | None = None) -> Predictions:
        """
        Args:
            images: [B, 3, H, W], uint8 or float in [0, 1].
            padding: [B, H, W] bool, True = padding (bottom and right).
            targets: for denoising, while training; nothing else looks at them.
        """
        levels = self.backbone(self.backbone.normalize(images, padding))
        features = self.neck(levels, padding)
        memory = self.encoder(features)
        queries, groups = self.queries(memory)
        if self.training:
            queries = self.with_groups(queries, targets)
        hidden, boxes = self.decoder(queries, memory, self.box_head)
        predictions = Predictions(self.class_head(hidden), boxes.sigmoid(), groups)
        if self.mask_head is not None:
            count = matching_count(queries)
            predictions.masks = self.mask_head(
                hidden[-1][:, :count], predictions.boxes[-1][:, :count], memory, features, levels
            )
        return separate(predictions, queries.groups)

    def with_groups(self, queries: QuerySet, targets: Targets | None) -> QuerySet:
        """What is supervised beside the queries that count, behind them."""
        if self.one_to_many is not None:
            queries = self.one_to_many.split(queries, self.queries.extra)
        if self.denoising is not None and targets is not None:
            queries = self.denoising(queries, targets, self.queries.position_of)
        return queries


def _for_layers(count: int | None, head: Callable[[], nn.Module]) -> nn.Module:
    """One head for all layers, or as many as there are."""
    return head() if count is None else PerLayer(head() for _ in range(count))


def check_parts(
    decoder: Decoder | type[Decoder],
    queries: Queries | type[Queries],
    *,
    denoising: bool,
    levels: Mapping[str, int | None],
    neck_levels: int | None,
) -> None:
    """ValueError if parts do not fit each other. Classes will do in the place of parts that are not built yet.

    Args:
        denoising: whether there is any.
        levels: of features that encoder and decoder expect; None: as many as there are.
        neck_levels: how many there are; None: not known yet.
    """
    decoder.check(queries)
    if denoising and not queries.has_reference:
        raise ValueError(
            "denoising gives boxes as anchors, but the queries have none; use queries=anchors or two_stage"
        )
    for name, expected in levels.items():
        if None not in (expected, neck_levels) and expected != neck_levels:
            raise ValueError(
                f"transformer.{name}.num_levels is for {expected} levels of features, but "
                f"neck.num_levels={neck_levels}; make them equal"
            )
