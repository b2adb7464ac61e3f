"""The detector: assembly and forward pass (DETR, section 3.2; facebookresearch/detr, models/detr.py)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from detr.models.backbone import Backbone
from detr.models.layers import MLP, class_head, zero_last_layer
from detr.models.mask_head import MaskHead
from detr.models.neck import Neck
from detr.models.queries import Queries
from detr.models.transformer import TransformerDecoder, TransformerEncoder
from detr.structures import Classification, Predictions


class DETR(nn.Module):
    """A backbone, a transformer, and two heads on every layer of its decoder.

    Args:
        backbone: images → levels of features.
        neck: a factory, since the backbone says how many channels its levels have.
        encoder: features → memory.
        decoder: queries and memory → hidden states and boxes.
        queries: a factory, since the data set says how many classes there are.
        mask_head: a factory, as the neck; null: boxes only.
        d_model: width of the transformer.
        classification: softmax (with a no-object column, the last) or sigmoid.
        num_classes: classes of the data set.

    Raises:
        ValueError: decoder and queries do not fit.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        neck: Callable[..., Neck],
        encoder: TransformerEncoder,
        decoder: TransformerDecoder,
        queries: Callable[..., Queries],
        num_classes: int,
        mask_head: Callable[..., MaskHead] | None = None,
        d_model: int = 256,
        classification: Classification = "softmax",
    ) -> None:
        super().__init__()
        sigmoid = classification == "sigmoid"
        num_logits = num_classes if sigmoid else num_classes + 1
        self.classification = classification
        self.backbone = backbone
        self.neck = neck(channels=backbone.channels)
        self.encoder = encoder
        self.queries = queries(num_logits=num_logits, sigmoid=sigmoid)
        self.decoder = decoder
        self.class_head = class_head(d_model, num_logits, sigmoid=sigmoid)
        self.box_head = MLP(d_model, d_model, 4, 3)
        if decoder.refines:
            zero_last_layer(self.box_head)
        self.mask_head = (
            None if mask_head is None else mask_head(channels=backbone.channels, num_levels=self.neck.num_levels)
        )
        if decoder.refines != self.queries.has_reference:
            raise ValueError(
                "transformer.decoder refines anchors, but the queries have none; use queries=anchors or two_stage"
                if decoder.refines
                else "queries come with anchors, which transformer.decoder does not use; use transformer/decoder=anchor"
            )

    def forward(self, images: Tensor, padding: Tensor) -> Predictions:
        """
        Args:
            images: [B, 3, H, W], uint8 or float in [0, 1].
            padding: [B, H, W] bool, True = padding (bottom and right).
        """
        levels = self.backbone(self.backbone.normalize(images, padding))
        features = self.neck(levels, padding)
        memory = self.encoder(features)
        queries, groups = self.queries(memory)
        hidden, boxes = self.decoder(queries, memory, self.box_head)
        boxes = boxes.sigmoid()
        masks = None if self.mask_head is None else self.mask_head(hidden[-1], boxes[-1], memory, features, levels)
        return Predictions(self.class_head(hidden), boxes, groups, masks)
