"""A detector for new images: what a checkpoint holds, ready to be called."""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat

from detr.assembly import build_model, eval_batch_size
from detr.config import build, check
from detr.config.blame import own_parts_blamed
from detr.config.build import MissingModuleError
from detr.data.coco_categories import STUFF
from detr.data.dataset import Transform, transformed
from detr.data.loader import collate
from detr.environment import autocast, keep_freed_memory, resolve_device
from detr.errors import UserError
from detr.evaluation.postprocess import masks_of_queries, postprocess
from detr.evaluation.segments import panoptic_segments
from detr.inference.attention import Attention, Recorder
from detr.inference.choice import Choice
from detr.inference.found import Found
from detr.inference.inputs import as_image
from detr.inference.recipes import config_of
from detr.inference.tiles import Tiling, View, merged
from detr.models.detr import DETR
from detr.structures import Batch, Classes, Detections, PanopticSegments, Predictions, Sample
from detr.weights.sources import Weights, load, load_strictly

THRESHOLD = 0.5  # of the score, as in the pictures of a training
DRAWING = threading.Lock()  # of random numbers: transforms draw from torch's own generator, which is everybody's

Layers = Literal["last", "all"]


class Detector:
    """Finds objects in images as an evaluation of the same weights does; build it with `Detector.load`.

    It may be called from several threads at once.

    Attributes:
        classes: what class indices mean.
        batch_size: images of a batch, unless told otherwise: as many as in evaluations.
    """

    def __init__(self, model: DETR, classes: Classes, values: Mapping[str, Any]) -> None:
        """
        Args:
            model: on its device; is put into evaluation mode.
            classes: what the rows of its class head mean.
            values: the checked config that it was built from.
        """
        self.model = model.eval()
        self.classes = classes
        self.transform: Transform = build(values["augmentation"]["eval"])
        self.device = next(model.parameters()).device
        self.autocast: Callable[[], Any] = functools.partial(autocast, self.device, values["trainer"]["precision"])
        self.batch_size = eval_batch_size(values["dataloader"], model)
        evaluator = values["evaluator"]
        self.detections_per_image = evaluator.get("detections_per_image", 100)
        self.min_score: float | None = None  # of a panoptic segment
        if model.mask_head is not None and "min_score" in evaluator:
            self.min_score = evaluator["min_score"][model.classification]

    @classmethod
    def load(cls, source: str, *, device: str = "auto", overrides: Sequence[str] = ()) -> Detector:
        """Build a detector from weights. A checkpoint of ours has all that it takes; of a moving average, that is used.

        Args:
            source: a checkpoint, an https address, the name of published weights (detr_r50, …), a file of the official
                DETR or a Hugging Face folder.
            device: auto, cpu, cuda, cuda:N or mps.
            overrides: of the config, as on the command line: `experiment=NAME` for a file that does not say what it is.

        Raises:
            UserError: no such weights, unreadable, or they do not fit their config.
        """
        place = resolve_device(device, "device")
        keep_freed_memory()
        weights = load(str(source))
        try:
            values, _ = check(config_of(weights, overrides))
        except MissingModuleError as error:
            raise error.lay_in({} if weights.checkpoint is None else weights.checkpoint.recipe.modules) from error
        with own_parts_blamed(values):
            classes = classes_of(weights)
            model = build_model(values, classes, pretrained=False)
            load_strictly(model, weights)
            return cls(model.to(place), classes, values)

    @torch.inference_mode()
    def __call__(
        self,
        images: Any,
        *,
        threshold: float = THRESHOLD,
        classes: str | Sequence[str] | None = None,
        top_k: int | None = None,
        batch_size: int | None = None,
        tiles: int | None = None,
        overlap: float = 0.2,
        attention: Layers | None = None,
        attention_point: tuple[float, float] | None = None,
    ) -> Any:
        """Find objects in one image and return a `Found`, or in each of a list of them and return a list.

        Args:
            images: a path, a Pillow image, a numpy array [height, width, 3] of uint8 in RGB, a tensor
                [3, height, width] of uint8 or of floats from 0 to 1, or a list of such.
            threshold: least score.
            classes: names of the classes that are wanted; None: all.
            top_k: of an image, the best so many; None: all.
            batch_size: images at once; None: as many as in evaluations. Where they differ in size, each sees the
                padding that the others bring.
            tiles: side in pixels of tiles that larger images are looked at in, too; None: the whole image only.
            overlap: of neighbouring tiles, as a part of their side.
            attention: also say where the queries of what was found looked, in the last layer or in all; one image at a
                time.
            attention_point: (x, y) in pixels; with `attention`, also where the encoder looks from there.

        Raises:
            UserError: an image that cannot be read, or an option out of its range.
        """
        choice = Choice.of(self.classes, threshold=threshold, classes=classes, top_k=top_k)
        tiling = None if tiles is None else Tiling(tiles, overlap)
        self._check(batch_size, tiling, attention, attention_point)
        several = isinstance(images, list | tuple)
        pictures = [as_image(each) for each in (images if several else [images])]
        if attention is not None:
            found = [self._explained(each, choice, attention, attention_point) for each in pictures]
        else:
            found = list(self._found(pictures, choice, batch_size or self.batch_size, tiling))
        return found if several else found[0]

    def _check(
        self,
        batch_size: int | None,
        tiling: Tiling | None,
        attention: Layers | None,
        point: tuple[float, float] | None,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise UserError(f"batch_size: expected at least 1, got {batch_size}")
        if tiling is not None and self.min_score is not None:
            raise UserError("tiles: a panoptic detector shares out the pixels of whole images; leave tiles out")
        if tiling is not None and attention is not None:
            raise UserError("tiles and attention cannot be combined: a query sees one tile; choose one of them")
        if point is not None and attention is None:
            raise UserError("attention_point: is shown with attention only; ask for that, too")

    def _found(
        self, images: Sequence[Image.Image], choice: Choice, batch_size: int, tiling: Tiling | None
    ) -> Iterator[Found]:
        for some in chunks(images, batch_size):
            for image, (detections, segments) in zip(some, self._batch(some, choice), strict=True):
                if tiling is not None:
                    detections = self.with_tiles(image, detections, tiling, choice, batch_size)
                yield Found.of(image, detections, self.classes, segments=segments)

    def with_tiles(
        self, image: Image.Image, whole: Detections, tiling: Tiling, choice: Choice, batch_size: int
    ) -> Detections:
        """Return what was found in a whole image together with what is found in its tiles, best first.

        Args:
            image: in its own size.
            whole: what was found in it, all of it.
            tiling: how it is cut; where it fits a single tile, `whole` comes back.
            choice: of what is found in the tiles.
            batch_size: tiles at once.
        """
        views = tiling.views(image.size)
        if not views:
            return whole
        every = replace(choice, top_k=None)
        tiles = [each for some in chunks(views, batch_size) for each in self._tiles(image, some, every)]
        return merged(whole, list(zip(views, tiles, strict=True)), image.size, tiling, choice.top_k)

    def _tiles(self, image: Image.Image, views: Sequence[View], choice: Choice) -> list[Detections]:
        return [detections for detections, _ in self._batch([image.crop(view) for view in views], choice)]

    def _batch(self, images: Sequence[Image.Image], choice: Choice) -> list[tuple[Detections, PanopticSegments | None]]:
        """What is found in images that go through the model together."""
        batch = self.prepared(images)
        with self.autocast():
            predictions = self.model(batch.images, batch.padding)
        return self._answers(predictions, batch, choice)

    def prepared(self, images: Sequence[Image.Image]) -> Batch:
        """Return images as the model is given them: transformed, padded to a batch, on its device."""
        samples = [self._sample(image) for image in images]
        return collate(samples, self.model.backbone.size_divisor).to(self.device)

    def _sample(self, image: Image.Image) -> Sample:
        size = (image.height, image.width)
        boxes = BoundingBoxes(torch.zeros(0, 4), format=BoundingBoxFormat.XYXY, canvas_size=size)
        target = {"boxes": boxes, "labels": torch.zeros(0, dtype=torch.int64)}
        with DRAWING:
            seen, _ = transformed(self.transform, image, target, entropy=[0])
        return Sample(
            image=pil_to_tensor(seen),
            labels=target["labels"],
            boxes=torch.zeros(0, 4),
            image_id=0,
            original_size=size,
            file="",
        )

    def _answers(
        self, predictions: Predictions, batch: Batch, choice: Choice
    ) -> list[tuple[Detections, PanopticSegments | None]]:
        """What is wanted of the predictions of a batch; masks of nothing else are computed."""
        classification = self.model.classification
        found = postprocess(
            replace(predictions, masks=None),
            batch.original_sizes,
            classification=classification,
            max_detections=self.detections_per_image,
        )
        chosen = [of_rows(each, choice.rows(each)) for each in found]
        if predictions.masks is not None:
            for index, each in enumerate(chosen):
                assert each.queries is not None
                size, original = batch.sizes[index].tolist(), batch.original_sizes[index].tolist()
                padded, direct = batch.images.shape[-2:], predictions.pixels is not None
                each.masks = masks_of_queries(predictions.masks, index, each.queries, padded, size, original, direct)
        if self.min_score is None:
            return [(each, None) for each in chosen]
        segments = panoptic_segments(
            predictions, batch, classification=classification, things=things(self.classes), min_score=self.min_score
        )
        return list(zip(chosen, segments, strict=True))

    def _explained(
        self, image: Image.Image, choice: Choice, layers: Layers, point: tuple[float, float] | None
    ) -> Found:
        """What is found in an image, and where the model looked. It is watched in a twin that shares its weights."""
        batch = self.prepared([image])
        shared = {id(each): each for each in (*self.model.parameters(), *self.model.buffers())}
        twin = copy.deepcopy(self.model, shared)
        with Recorder(twin) as recorder, self.autocast():
            predictions = twin(batch.images, batch.padding)
        ((detections, segments),) = self._answers(predictions, batch, choice)
        with self.autocast():
            attention = Attention.of(recorder, detections.queries, batch, every_layer=layers == "all", point=point)
        return Found.of(image, detections, self.classes, segments=segments, attention=attention)


def classes_of(weights: Weights) -> Classes:
    """Return what the class indices of weights mean; numbers where their source does not tell."""
    if weights.classes is not None:
        return weights.classes
    count = weights.num_logits - (weights.classification == "softmax")
    return Classes.contiguous({index: f"class {index}" for index in range(count)})


def things(classes: Classes) -> torch.Tensor:
    """Return [K] which classes are things; of weights that do not tell, as COCO numbers them."""
    return torch.tensor(classes.things or [category not in STUFF for category in classes.category_ids])


def of_rows(detections: Detections, rows: torch.Tensor) -> Detections:
    """Return some of the detections, without masks."""
    queries = None if detections.queries is None else detections.queries[rows]
    return Detections(detections.scores[rows], detections.labels[rows], detections.boxes[rows], queries=queries)


def chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Yield `size` items at a time; the last ones may be fewer."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
