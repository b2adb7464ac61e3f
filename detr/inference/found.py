"""What a detector found in an image, in plain arrays, and the ways on from there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detr.data.segmentations import encode
from detr.drawing.attention import Look, attention_sheet
from detr.drawing.boxes import class_color, draw_boxes
from detr.drawing.segments import draw_segments
from detr.errors import UserError
from detr.evaluation.examples import Boxes, Segments
from detr.structures import Classes, Detections, PanopticSegments

if TYPE_CHECKING:
    from detr.inference.attention import Attention

COLUMNS = 4  # of a sheet with one layer


@dataclass(frozen=True)
class Found:
    """Holds the n objects that were found in one image, best first."""

    image: Image.Image  # that was looked at: RGB, upright
    boxes: NDArray[np.float32]  # [n, 4] xyxy in pixels of the image
    scores: NDArray[np.float32]  # [n]
    labels: NDArray[np.int64]  # [n] class index
    classes: Classes  # what the class indices mean
    masks: NDArray[np.bool_] | None = None  # [n, height, width]; None: the detector finds boxes only
    segments: PanopticSegments | None = None  # who each pixel belongs to, of a panoptic detector
    attention: Attention | None = None  # where the queries looked, if that was asked for

    @classmethod
    def of(cls, image: Image.Image, detections: Detections, classes: Classes, **more: Any) -> Found:
        """Return detections of an image in plain arrays; `more`: segments and attention."""
        return cls(
            image=image,
            boxes=detections.boxes.float().cpu().numpy(),
            scores=detections.scores.float().cpu().numpy(),
            labels=detections.labels.cpu().numpy(),
            classes=classes,
            masks=None if detections.masks is None else detections.masks.cpu().numpy(),
            **more,
        )

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def names(self) -> list[str]:
        """Return [n] the name of each object's class."""
        return [self.classes.names[label] for label in self.labels.tolist()]

    @property
    def category_ids(self) -> list[int]:
        """Return [n] the category of each object, as the training data numbered it."""
        return [self.classes.category_ids[label] for label in self.labels.tolist()]

    def xywh(self) -> NDArray[np.float64]:
        """Return [n, 4] boxes as COCO has them. In float64, so that x + width is the corner that was predicted."""
        corners = self.boxes.astype(np.float64)
        return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)

    def draw(self) -> Image.Image:
        """Return a copy of the image with what was found on it: segments of a panoptic detector, else boxes and masks.

        Lines and letters follow the size of the image; small images are scaled up.
        """
        if self.segments is not None:
            return draw_segments(self.image, Segments.of(self.segments), self.classes.names)
        corners = [(left, top, right, bottom) for left, top, right, bottom in self.boxes.tolist()]
        boxes = Boxes(corners, self.labels.tolist(), self.scores.tolist(), self.masks)
        return draw_boxes(self.image, boxes, self.classes.names)

    def draw_attention(self) -> Image.Image:
        """Return a sheet that shows where the query of each object looked, a row an object where there are layers, and
        last where the encoder looked from a point. Raises UserError where the detector was not asked for attention.
        """
        if self.attention is None:
            raise UserError('there is no attention to draw; call the detector with attention="last" or "all"')
        layers = self.attention.layers
        rows = [
            [
                Look(
                    caption=f"{name} {score:.2f}{_layer(layer, layers)}",
                    color=class_color(label),
                    corners=(left, top, right, bottom),
                    **self.attention.queries.of(layer, row),
                )
                for layer in range(layers)
            ]
            for row, (name, score, label, (left, top, right, bottom)) in enumerate(
                zip(self.names, self.scores.tolist(), self.labels.tolist(), self.boxes.tolist(), strict=True)
            )
        ]
        looks = [look for row in rows for look in row]
        if self.attention.encoder is not None:
            x, y = self.attention.point or (0.0, 0.0)
            count = self.attention.encoder.layers
            looks += [
                Look(
                    caption=f"encoder, from {x:g},{y:g}{_layer(layer, count)}",
                    color=(0, 0, 0),
                    origin=(x, y),
                    **self.attention.encoder.of(layer, 0),
                )
                for layer in range(count)
            ]
        return attention_sheet(self.image, looks, COLUMNS if layers == 1 else layers) if looks else self.draw()

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Return the objects in COCO's results format, with the category ids of the training data."""
        rows = zip(self.category_ids, self.xywh().tolist(), self.scores.tolist(), strict=True)
        results: list[dict[str, Any]] = [
            {"image_id": image_id, "category_id": category, "bbox": box, "score": score}
            for category, box, score in rows
        ]
        if self.masks is not None:
            for result, rle in zip(results, encode(self.masks), strict=True):
                result["segmentation"] = rle
        return results

    def to_supervision(self) -> Any:
        """Return the objects as `supervision.Detections`. Raises UserError where supervision is not installed."""
        try:
            import supervision
        except ImportError:
            raise UserError("supervision is not installed; pip install supervision") from None
        return supervision.Detections(
            xyxy=self.boxes,
            mask=self.masks,
            confidence=self.scores,
            class_id=self.labels,
            data={"class_name": np.array(self.names, dtype=np.str_)},
        )


def _layer(layer: int, layers: int) -> str:
    """What a caption says of the layer, where there are several."""
    return "" if layers == 1 else f", layer {layer + 1}"
