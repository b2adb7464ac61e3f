"""The containers that flow through the project: data → model → matcher and losses → engine → evaluation.

Letters in the shapes: B images in a batch, N objects in the whole batch, L decoder layers, Q queries,
K class logits (with a no-object column, the last, when classification is softmax), M matched pairs,
D the width of the transformer, T tokens of the encoder.
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
    """Half precision as float32; float32 and float64 stay what they are."""
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
    """The objects of a whole batch, concatenated in the order of the images. Build it with `Targets.of`."""

    labels: Tensor  # [N] class index
    boxes: Tensor  # [N, 4] cxcywh in [0, 1], relative to the unpadded image
    image: Tensor  # [N] which image of the batch, ascending
    counts: list[int]  # objects of each image: kept on the host, so that nobody has to wait for the device
    masks: Tensor | None = None  # [N, H, W] bool, padded like the batch's images; None where nobody asked for masks

    @classmethod
    def of(cls, labels: Sequence[Tensor], boxes: Sequence[Tensor], masks: Sequence[Tensor] | None = None) -> Self:
        """From each image's labels [n], boxes [n, 4] and masks [n, H, W], all of one size."""
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
    """One image and its objects, after augmentation."""

    image: Tensor  # [3, H, W] uint8
    labels: Tensor  # [n] class index
    boxes: Tensor  # [n, 4] cxcywh in [0, 1]
    image_id: int
    original_size: tuple[int, int]  # (height, width) as stored, EXIF orientation applied
    file: str
    masks: Tensor | None = None  # [n, H, W] bool


@dataclass
class Batch(_Movable):
    """Images padded at the bottom and right to a common size, and who they are."""

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
    """M pairs of a query and the object it answers for; four index vectors, each [M]."""

    layer: Tensor
    image: Tensor
    query: Tensor
    target: Tensor  # index into the Targets of the batch

    def __len__(self) -> int:
        return len(self.layer)

    def for_layers(self, count: int) -> Matches:
        """The same pairs, which are of layer 0, in each of `count` layers."""
        layer = torch.arange(count, device=self.layer.device).repeat_interleave(len(self))
        return Matches(layer, self.image.repeat(count), self.query.repeat(count), self.target.repeat(count))


MaskDecoder = Callable[[Tensor, Tensor], Tensor]
"""image [M] and query [M] → mask logits [M, h, w] in fp32. Masks are computed for the queries that somebody asks for:
of a training batch those that are matched, an eighth of all or fewer; the others would get no gradient anyway."""


@dataclass
class Predictions:
    """What the heads say, for every decoder layer: auxiliary losses are an axis, not names."""

    logits: Tensor  # [L, B, Q, K]
    boxes: Tensor  # [L, B, Q, 4] cxcywh in [0, 1]
    groups: dict[str, Group] = field(default_factory=dict)  # further supervised outputs
    masks: MaskDecoder | None = None  # of the last layer's queries

    def at_least_fp32(self) -> Predictions:
        """The same with half-precision tensors as float32, groups included."""
        groups = {
            name: replace(group, predictions=group.predictions.at_least_fp32()) for name, group in self.groups.items()
        }
        return replace(self, logits=at_least_fp32(self.logits), boxes=at_least_fp32(self.boxes), groups=groups)


@dataclass
class Group:
    """Supervised outputs beside the decoder's: encoder proposals, denoising, one-to-many queries."""

    predictions: Predictions
    matches: Matches | None = None  # known beforehand (denoising); None: ask the matcher
    copies: int = 1  # each object may be matched this often; the normaliser grows with it
    weight: float = 1.0
    parts: int = 1  # the queries in as many equal parts, each matched on its own, `copies` being of all together
    class_agnostic: bool = False  # logits tell objects from no objects: every label counts as class 0


@dataclass
class Features:
    """What the neck hands to the encoder: levels from fine to coarse, all of width D."""

    maps: list[Tensor]  # each [B, D, h, w]
    padding: list[Tensor]  # each [B, h, w] bool, True = padding
    positions: list[Tensor]  # each [B, D, h, w]


@dataclass
class Memory:
    """What the encoder hands to queries and decoder: the tokens of all levels in one sequence."""

    tokens: Tensor  # [B, T, D]
    positions: Tensor  # [B, T, D]
    padding: Tensor  # [B, T] bool, True = padding
    shapes: list[tuple[int, int]]  # (h, w) of each level; their products add up to T

    @cached_property
    def sizes(self) -> Tensor:
        """[levels, 2] float (w, h) of each level. Filled in number by number: a copy of a list would be waited for."""
        sides = [self.tokens.new_full((), side, dtype=torch.float) for h, w in self.shapes for side in (w, h)]
        return torch.stack(sides).view(-1, 2)


@dataclass
class QuerySet:
    """What the decoder starts from."""

    content: Tensor  # [B, Q, D]
    position: Tensor | None = None  # [B, Q, D]; None where the decoder makes it from `reference`
    reference: Tensor | None = None  # [B, Q, 4] cxcywh before the sigmoid; None = plain DETR
    attention_mask: Tensor | None = None  # [Q, Q] bool, True = may not attend
    groups: dict[str, QueryGroup] = field(default_factory=dict)  # further queries behind the matching ones, to train

    def __len__(self) -> int:
        """Q, groups included."""
        return self.content.shape[1]


@dataclass
class QueryGroup:
    """Which of the queries are a group, and what `Group` they become once the decoder has answered for them."""

    queries: slice
    matches: Matches | None = None  # with layer 0 only: they hold for every layer
    copies: int = 1
    weight: float = 1.0
    parts: int = 1


@dataclass
class Normalizer:
    """What the losses of one micro-batch are divided by: counts over the whole optimizer step.

    Counted before the first forward pass over all micro-batches, and averaged over processes, so that
    gradients that are summed over micro-batches and averaged over processes are those of one large batch.
    """

    objects: float  # ground-truth objects of the step, at least 1
    images: float  # images of the step
    micro_batches: int = 1


@dataclass
class Losses:
    """The criterion's answer."""

    total: Tensor  # scalar, to call backward on
    terms: dict[str, Tensor]  # weighted, each [L]; of a group "name/term"; they add up to `total`
    metrics: dict[str, Tensor]  # not minimised, each [L]: class_error (percent), cardinality_error


@dataclass
class Detections:
    """Post-processed boxes of one image."""

    scores: Tensor  # [n] descending
    labels: Tensor  # [n] class index
    boxes: Tensor  # [n, 4] xyxy in pixels of the original image
    masks: Tensor | None = None  # [n, height, width] bool, of the original image's size


@dataclass
class PanopticSegments:
    """Post-processed segments of one image, which share its pixels out among themselves."""

    ids: Tensor  # [height, width] int32, of the original image's size: 0 is void, i + 1 is segment i
    labels: Tensor  # [n] class index
    scores: Tensor  # [n]


@dataclass(frozen=True)
class Classes:
    """What the class indices mean, and which category ids of the data set they stand for.

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
        """Classes 0 … n-1 in ascending order of the category ids (`categories`: id -> name)."""
        ids = tuple(sorted(categories))
        return cls(tuple(categories[i] for i in ids), ids)

    @classmethod
    def identity(cls, categories: Mapping[int, str]) -> Self:
        """Class = category id, as official DETR has it: max id + 1 classes (91 for COCO), with holes."""
        ids = tuple(range(max(categories, default=-1) + 1))
        return cls(tuple(categories.get(i, cls.HOLE) for i in ids), ids)

    @property
    def num_classes(self) -> int:
        return len(self.names)

    @cached_property
    def index_of(self) -> dict[int, int]:
        """Category id -> class index."""
        return {category_id: index for index, category_id in enumerate(self.category_ids)}

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for checkpoints and JSON."""
        things = {} if self.things is None else {"things": list(self.things)}
        return {"names": list(self.names), "category_ids": list(self.category_ids), **things}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        things = stored.get("things")
        return cls(tuple(stored["names"]), tuple(stored["category_ids"]), None if things is None else tuple(things))
