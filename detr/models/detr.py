"""The detector: assembly and forward pass (DETR, section 3.2; facebookresearch/detr, models/detr.py)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from detr.models.backbone import Backbone
from detr.models.decoder import Decoder, Reference
from detr.models.denoising import Denoising
from detr.models.encoder import Encoder
from detr.models.groups import OneToMany, preliminary, separate
from detr.models.heads import BoxHead, ClassHead, for_layers
from detr.models.mask_head import QueryMasks
from detr.models.neck import LevelNeck
from detr.models.queries import Queries, Surroundings
from detr.models.structures import QuerySet
from detr.structures import Classification, Predictions, Targets


class DETR(nn.Module):
    """Combines a backbone, a transformer, and two heads on every layer of its decoder.

    Args:
        backbone: images → levels of features.
        neck: a factory, since the backbone says how many channels its levels have.
        encoder: features → memory.
        decoder: queries and memory → states and boxes.
        queries: a factory, since the data set says how many classes there are.
        class_head: a factory: states, boxes and extras → class logits.
        box_head: a factory: states → what the box coder of the decoder reads.
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
        neck: Callable[..., LevelNeck],
        encoder: Encoder,
        decoder: Decoder,
        queries: Callable[..., Queries],
        num_classes: int,
        class_head: Callable[..., nn.Module] = ClassHead,
        box_head: Callable[..., nn.Module] = BoxHead,
        mask_head: Callable[..., QueryMasks] | None = None,
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
        self.neck = neck(channels=backbone.channels, strides=backbone.strides)
        self.encoder = encoder
        self.queries = queries(
            surroundings=Surroundings(num_logits, sigmoid, one_to_many, point_layers=decoder.point_layers)
        )
        self.decoder = decoder
        layers = len(decoder.layers) if heads_per_layer else None
        self.class_head = for_layers(
            layers, lambda: class_head(d_model=d_model, num_logits=num_logits, sigmoid=sigmoid)
        )
        corrects = decoder.references != ("none",)
        self.box_head = for_layers(
            layers, lambda: box_head(d_model=d_model, num_outputs=decoder.box_outputs, corrects=corrects)
        )
        self.mask_head = (
            None if mask_head is None else mask_head(channels=backbone.channels, num_levels=self.neck.backbone_levels)
        )
        self.denoising = None if denoising is None else denoising(num_classes=num_classes)
        self.one_to_many = one_to_many
        check_parts(self, d_model)
        if not (encoder.reads_positions or decoder.reads_positions):
            self.neck.freeze_positions()

    def forward(self, images: Tensor, padding: Tensor, targets: Targets | None = None) -> Predictions:
        """Return the predictions of every decoder layer.

        Args:
            images: [B, 3, H, W], uint8 or float in [0, 1].
            padding: [B, H, W] bool, True = padding (bottom and right).
            targets: for denoising, while training; nothing else looks at them.
        """
        levels = self.backbone(self.backbone.normalize(images, padding))
        features = self.neck(levels, padding)
        memory = self.encoder(features)
        queries = self.queries(memory)
        if self.training:
            queries = self.with_further(queries, targets)
        decoded = self.decoder(queries, memory, self.box_head)
        predictions = Predictions(self.class_head(decoded), decoded.boxes, decoded.extras)
        if self.training:
            predictions.groups = preliminary(decoded, self.class_head)
        predictions = separate(predictions, memory.groups | queries.groups | decoded.groups, queries.matching)
        if self.mask_head is not None:
            predictions = self.mask_head.layered(predictions, decoded.hidden, features)
            if predictions.masks is None:
                hidden = decoded.hidden[-1][:, : queries.matching]
                predictions.masks = self.mask_head(hidden, predictions.boxes[-1], memory, features, levels)
        return predictions

    def with_further(self, queries: QuerySet, targets: Targets | None) -> QuerySet:
        """Append the queries that are there for training only to those that count."""
        if self.one_to_many is not None:
            queries = self.one_to_many.split(queries, self.queries.further)
        if self.denoising is not None and targets is not None:
            queries = self.denoising(queries, targets, self.queries.position_of)
        return queries


KINDS: dict[Reference, str] = {"none": "positions alone", "point": "points", "anchor": "anchors"}
OPTIONS: dict[Reference, str] = {"none": "learned", "point": "learned", "anchor": "anchors or two_stage"}


def check_parts(model: DETR, d_model: int) -> None:
    """Check that the parts of a detector, whose decoder has width `d_model`, fit each other.

    Raises:
        ValueError: they do not.
    """
    kind = model.queries.reference
    if kind not in model.decoder.references:
        wanted = model.decoder.references[-1]
        raise ValueError(
            f"transformer.decoder works with queries that have {KINDS[wanted]}, but these have {KINDS[kind]}; "
            f"use queries={OPTIONS[wanted]}, or another transformer/decoder"
        )
    if model.denoising is not None and kind != "anchor":
        raise ValueError(
            f"denoising gives anchors, but the queries have {KINDS[kind]}; use queries={OPTIONS['anchor']}"
        )
    if model.decoder.reads_positions and not model.encoder.keeps_positions:
        raise ValueError(
            "transformer.decoder reads the positions of tokens, whose width transformer.encoder.output_width changes; "
            "use transformer/decoder=deformable, or transformer.encoder.output_width=null"
        )
    read = model.backbone.strides[-model.neck.backbone_levels :]
    if model.mask_head is not None and model.mask_head.climbs and model.neck.strides[: len(read)] != read:
        raise ValueError(
            "mask_head=fpn goes from the levels of the neck to finer ones of the backbone, but this neck joins the "
            "backbone's levels to others; use mask_head=product, or neck=single_level"
        )
    layers, depth = len(model.decoder.layers), None if model.mask_head is None else model.mask_head.depth
    if depth is not None and depth > layers:
        raise ValueError(
            f"mask_head.num_blocks is {depth}, but there are {layers} decoder layers; give at most as many blocks"
        )
    made, read_width = model.neck.d_model, model.encoder.d_model
    if None not in (made, read_width) and made != read_width:
        raise ValueError(
            f"transformer.encoder.layer.d_model is {read_width}, but neck.d_model is {made}; make them equal "
            "(neck=rt_detr takes the encoder's)"
        )
    if model.encoder.output_width not in (None, d_model):
        raise ValueError(
            f"transformer.encoder gives tokens of width {model.encoder.output_width}, but transformer.d_model is "
            f"{d_model}; make them equal, or set transformer.encoder.output_width where it has one"
        )
    for name, part in {"encoder": model.encoder, "decoder": model.decoder}.items():
        if part.num_levels not in (None, model.neck.num_levels):
            raise ValueError(
                f"transformer.{name}.num_levels is for {part.num_levels} levels of features, but "
                f"neck.num_levels={model.neck.num_levels}; make them equal"
            )
