"""The containers that flow through the project: data → model → matcher and losses → training → evaluation.

Letters in the shapes: B images in a batch, N objects in the whole batch, L decoder layers, Q queries,
K class logits (with a no-object column, the last, when classification is softmax), M matched pairs.
What flows inside of a detector is in `detr.models.structures`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

Classification = Literal["softmax", "sigmoid"]  # what class logits mean; with softmax the last one is no-object


def at_least_fp32(tensor: Tensor) -> Tensor:
    """Return half precision as float32; float32 and float64 stay what they are."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


class _Movable:
    """Moving every tensor of a dataclass at once; other fields stay what they are."""

    def _map(self, function: Any) -> Self:
        changed = {}
        for item in fields(self):  # type: ignore[arg-type]
            value = getattr(self, item.name)
            if isinstance(value, Tensor):
                changed[item.name] = function(value)
            elif isinstance(value, _Movable):
                changed[item.name] = value._map(function)
        return replace(self, **changed)  # type: ignore[type-var]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        return self._map(lambda tensor: tensor.pin_memory())


@dataclass
class Targets(_Movable):
    """Holds the objects of a whole batch, concatenated in the order of the images. Build it with `Targets.of`."""

    labels: Tensor  # [N] class index
    boxes: Tensor  # [N, 4] cxcywh in [0, 1], relative to the unpadded image
    image: Tensor  # [N] which image of the batch, ascending
    counts: list[int]  # objects of each image: kept on the host, so that nobody has to wait for the device
    masks: Tensor | None = None  # [N, H, W] bool, padded like the batch's images; None where nobody asked for masks

    @classmethod
    def of(cls, labels: Sequence[Tensor], boxes: Sequence[Tensor], masks: Sequence[Tensor] | None = None) -> Self:
        """Build from each image's labels [n], boxes [n, 4] and masks [n, H, W], all of one size."""
        counts = [len(each) for each in labels]
        image = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
        return cls(
            labels=torch.cat(list(labels)),
            boxes=torch.cat(list(boxes)),
            image=image.to(labels[0].device),
            counts=counts,
            masks=None if masks is None else torch.cat(list(masks)),
        )

    def __len__(self) -> int:
        return len(self.labels)


@dataclass
class Sample:
    """Holds one image and its objects, after augmentation."""

    image: Tensor  # [3, H, W] uint8
    labels: Tensor  # [n] class index
    boxes: Tensor  # [n, 4] cxcywh in [0, 1]
    image_id: int
    original_size: tuple[int, int]  # (height, width) as stored, EXIF orientation applied
    file: str
    masks: Tensor | None = None  # [n, H, W] bool


@dataclass
class Batch(_Movable):
    """Holds images padded at the bottom and right to a common size, and who they are."""

    images: Tensor  # [B, 3, H, W] uint8, or float in [0, 1]; the backbone normalises
    padding: Tensor  # [B, H, W] bool, True = padding
    targets: Targets
    image_ids: list[int]
    sizes: Tensor  # [B, 2] (height, width) without padding
    original_sizes: Tensor  # [B, 2] (height, width) of the stored image
    files: list[str]

    def __len__(self) -> int:
        return len(self.images)


@dataclass
class Matches(_Movable):
    """Holds M pairs of a query and the object it answers for; four index vectors, each [M].

    Layer by layer: the pairs of layer 0 come first, and every layer has as many. So those of one layer are found
    without looking at the vectors, which a device would have to be waited for.
    """

    layer: Tensor
    image: Tensor
    query: Tensor
    target: Tensor  # index into the Targets of the batch
    layers: int  # L

    def __len__(self) -> int:
        return len(self.layer)

    @property
    def index(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return what picks the pairs out of [L, B, Q, …]: `boxes[matches.index]` is [M, 4]."""
        return self.layer, self.image, self.query

    def of_last_layer(self) -> Matches:
        """Return the pairs of the last layer alone, which becomes layer 0."""
        rows = slice(len(self) - len(self) // self.layers, None)
        return Matches(torch.zeros_like(self.layer[rows]), self.image[rows], self.query[rows], self.target[rows], 1)

    def for_layers(self, count: int) -> Matches:
        """Repeat the pairs of a single layer in each of `count` layers."""
        layer = torch.arange(count, device=self.layer.device).repeat_interleave(len(self))
        return Matches(layer, self.image.repeat(count), self.query.repeat(count), self.target.repeat(count), count)


MaskDecoder = Callable[[Tensor, Tensor], Tensor]
"""image [M] and query [M] → mask logits [M, h, w] in fp32. Masks are computed for the queries that somebody asks for:
of a training batch those that are matched, an eighth of all or fewer; the others would get no gradient anyway."""


MASK_QUERIES = "mask_queries"  # the extra of `Predictions` that their `pixels` are multiplied with
STATES = "states"  # the extra of proposals with what they were made of, [1, B, Q, D]


@dataclass
class Predictions:
    """Holds what the heads say, for every decoder layer: auxiliary losses are an axis, not names."""

    logits: Tensor  # [L, B, Q, K]
    boxes: Tensor  # [L, B, Q, 4] cxcywh in [0, 1]
    extras: dict[str, Tensor] = field(default_factory=dict)  # what else a decoder says, each [L, B, Q, …]
    groups: dict[str, Group] = field(default_factory=dict)  # what is supervised beside these queries
    masks: MaskDecoder | None = None  # of the last layer's queries
    pixels: list[Tensor] | None = None  # of each layer [B, D, h, w], where masks are products: see `MASK_QUERIES`

    def map(self, function: Callable[[Tensor], Tensor]) -> Predictions:
        """Return the same with `function` applied to every tensor [L, B, Q, …], those of the groups included."""
        return replace(
            self,
            logits=function(self.logits),
            boxes=function(self.boxes),
            extras={name: function(value) for name, value in self.extras.items()},
            groups={
                name: replace(group, predictions=group.outputs.map(function)) for name, group in self.groups.items()
            },
        )

    def select(self, *, layers: slice = slice(None), queries: slice = slice(None)) -> Predictions:
        """Return some layers and queries of everything that is said, without groups and masks."""
        pixels = None if self.pixels is None else self.pixels[layers]
        return replace(self, groups={}, masks=None, pixels=pixels).map(lambda value: value[layers, :, queries])

    def supervised(self) -> dict[str, Group]:
        """Return everything that has losses, by the name of its group: these queries first, without a name."""
        return {"": Group(predictions=self), **self.groups}

    def last_layer(self) -> Predictions:
        """Return the last layer alone, of the groups, too."""
        groups = {name: group.last_layer() for name, group in self.groups.items()}
        return replace(self.select(layers=slice(-1, None)), groups=groups, masks=self.masks)


@dataclass
class Group:
    """Holds outputs that are supervised on terms of their own: proposals, denoising or one-to-many queries.

    Any part may add one. Who has outputs already (an encoder, queries that propose) gives them as `predictions`; who
    adds queries says which they are, and the detector fills in what the decoder says of them.
    """

    predictions: Predictions | None = None
    queries: slice | None = None  # of the decoder's queries; None: the outputs are other ones
    matches: Matches | None = None  # known beforehand (denoising), for a single layer; None: ask the matcher
    parts: int = 1  # the queries in as many equal parts, each matched on its own
    copies: int = 1  # queries of each part that answer for an object
    weight: float = 1.0
    class_agnostic: bool = False  # logits tell objects from no objects: every label counts as class 0
    earlier: bool = False  # what the queries that count said before the decoder's layers, in the same order

    @property
    def outputs(self) -> Predictions:
        """Return the predictions, which are there once the decoder has answered."""
        assert self.predictions is not None
        return self.predictions

    @property
    def answers(self) -> int:
        """Return how many queries answer for an object in all; the normalizer grows with it."""
        return self.parts * self.copies

    def of(self, outputs: Predictions) -> Group:
        """Return the group with these predictions, in whose every layer the known matches are."""
        matches = None if self.matches is None else self.matches.for_layers(len(outputs.logits))
        return replace(self, predictions=outputs, matches=matches)

    def last_layer(self) -> Group:
        matches = None if self.matches is None else self.matches.of_last_layer()
        return replace(self, predictions=self.outputs.last_layer(), matches=matches)


@dataclass
class Normalizer:
    """Holds what the losses of one micro-batch are divided by: counts over the whole optimizer step.

    Counted before the first forward pass over all micro-batches, and averaged over processes, so that
    gradients that are summed over micro-batches and averaged over processes are those of one large batch.
    """

    objects: float  # ground-truth objects of the step, at least 1
    images: float  # images of the step
    micro_batches: int = 1
    whole_step: bool = False  # whether the micro-batches of all processes count as one batch (`loss.normalization`)
    processes: int = 1  # that compute losses of the step


@dataclass
class Losses:
    """Holds the criterion's answer."""

    total: Tensor  # scalar, to call backward on
    terms: dict[str, Tensor]  # weighted, each [L]; of a group "name/term"; they add up to `total`
    metrics: dict[str, Tensor]  # not minimised, each [L]: class_error (percent), cardinality_error

    def __add__(self, later: Losses) -> Losses:
        """Add up the losses of two micro-batches; of metrics, the later one's are kept."""
        terms = {name: value + later.terms[name] for name, value in self.terms.items()}
        return Losses(self.total + later.total, terms, later.metrics)


@dataclass
class Detections:
    """Holds post-processed boxes of one image."""

    scores: Tensor  # [n] descending
    labels: Tensor  # [n] class index
    boxes: Tensor  # [n, 4] xyxy in pixels of the original image
    masks: Tensor | None = None  # [n, height, width] bool, of the original image's size
    queries: Tensor | None = None  # [n] that found them; None where nobody knows


@dataclass
class PanopticSegments:
    """Holds post-processed segments of one image, which share its pixels out among themselves."""

    ids: Tensor  # [height, width] int32, of the original image's size: 0 is void, i + 1 is segment i
    labels: Tensor  # [n] class index
    scores: Tensor  # [n]


@dataclass(frozen=True)
class Classes:
    """Holds what the class indices mean, and which category ids of the data set they stand for.

    Travels in the checkpoint, so that predictions come out in the data set's own category ids.
    """

    HOLE: ClassVar[str] = "N/A"  # the name of an identity map's index that is no category

    names: tuple[str, ...]  # index = class
    category_ids: tuple[int, ...]  # index = class
    things: tuple[bool, ...] | None = None  # index = class; else it is stuff. None: the data set does not tell

    def __post_init__(self) -> None:
        if len(self.names) != len(self.category_ids):
            raise ValueError(f"{len(self.names)} names for {len(self.category_ids)} category ids")
        if len(set(self.category_ids)) != len(self.category_ids):
            raise ValueError("a category id stands for two classes")
        if self.things is not None and len(self.things) != len(self.names):
            raise ValueError(f"{len(self.things)} marks of things for {len(self.names)} names")

    @classmethod
    def contiguous(cls, categories: Mapping[int, str]) -> Self:
        """Build classes 0 … n-1 in ascending order of the category ids (`categories`: id -> name)."""
        ids = tuple(sorted(categories))
        return cls(tuple(categories[i] for i in ids), ids)

    @classmethod
    def identity(cls, categories: Mapping[int, str]) -> Self:
        """Build class = category id, as official DETR has it: max id + 1 classes (91 for COCO), with holes."""
        ids = tuple(range(max(categories, default=-1) + 1))
        return cls(tuple(categories.get(i, cls.HOLE) for i in ids), ids)

    @property
    def num_classes(self) -> int:
        return len(self.names)

    @cached_property
    def index_of(self) -> dict[int, int]:
        """Return category id -> class index."""
        return {category_id: index for index, category_id in enumerate(self.category_ids)}

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers, for checkpoints and JSON."""
        things = {} if self.things is None else {"things": list(self.things)}
        return {"names": list(self.names), "category_ids": list(self.category_ids), **things}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        things = stored.get("things")
        return cls(tuple(stored["names"]), tuple(stored["category_ids"]), None if things is None else tuple(things))
