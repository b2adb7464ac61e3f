"""What `detr predict` leaves in its folder: pictures, and what was found in the formats that were asked for."""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from detr.data.annotations import Annotations
from detr.data.converting.folder import place_image, write_folder
from detr.data.converting.losses import Losses
from detr.data.converting.voc import write_label_map, write_voc
from detr.data.converting.yolo import write_yaml, write_yolo
from detr.data.segmentations import encode
from detr.evaluation.results import Results
from detr.evaluation.submission import Submission
from detr.files import write_atomically, write_json, write_json_list, write_with
from detr.inference.found import Found
from detr.structures import Classes

Format = Literal["coco", "yolo", "voc", "csv"]

SPLIT = "train"  # of the data sets that are written: what was found is corrected, and trained on
COLUMNS = ("image_id", "file", "category_id", "class", "score", "left", "top", "width", "height")


class Output:
    """Writes what was found, image by image, and the files over all images in the end.

    Args:
        folder: where to.
        formats: coco: predictions.json in COCO's results format, and images.json that says which image is which;
            csv: predictions.csv, a row an object; yolo, voc: a data set in a folder of that name, to be corrected and
            trained on.
        classes: of the detector.
        names: file → its name here, which tells it from others; None for frames of a video.
    """

    def __init__(
        self, folder: Path, formats: Sequence[Format], classes: Classes, names: Mapping[str, str] | None
    ) -> None:
        self.folder, self.formats, self.classes, self.names = folder, formats, classes, names
        self.results = Results()
        self.images: list[dict[str, Any]] = []
        self.submission: Submission | None = None  # of panoptic segments

    def add(self, found: Found, file: str, **facts: Any) -> int:
        """Take what was found in an image, and return its id: images are numbered from 1.

        Args:
            found: in it.
            file: of the image, or of the video.
            facts: for images.json, beside its size.

        Raises:
            UserError: the disk is full.
        """
        number = len(self.images) + 1
        width, height = found.image.size
        self.images.append({"id": number, "file_name": file, "width": width, "height": height, **facts})
        categories = np.array(found.category_ids, dtype=np.int64)
        rles = None if found.masks is None else encode(found.masks)
        self.results.add(number, categories, found.xywh(), found.scores.astype(np.float64), rles)
        if found.segments is not None and "coco" in self.formats and self.names is not None:
            self._add_segments(number, found, f"{Path(self.names[file]).stem}.png")
        return number

    def picture(self, image: Image.Image, file: str, folder: str = "pictures") -> None:
        """Write a picture of an image file. Raises UserError if it cannot be written."""
        assert self.names is not None
        path = self.folder / folder / f"{Path(self.names[file]).stem}.jpg"
        write_with(path, functools.partial(image.save, format="JPEG", quality=92))

    def finish(self) -> None:
        """Write the files over all images. Raises UserError if they cannot be written."""
        if "coco" in self.formats:
            write_json_list(self.folder / "predictions.json", self.results)
            categories = [{"id": each, "name": name} for each, name in self._categories().items()]
            write_json(self.folder / "images.json", {"images": self.images, "categories": categories})
        if "csv" in self.formats:
            write_atomically(self.folder / "predictions.csv", self._csv())
        for layout in {"yolo", "voc"} & {*self.formats} if self.images else ():
            write_folder(self.folder / layout, functools.partial(self._write_data_set, layout))
        if self.submission is not None:
            self.submission.save(self.folder)

    def _categories(self) -> dict[int, str]:
        pairs = zip(self.classes.category_ids, self.classes.names, strict=True)
        return {category: name for category, name in pairs if name != Classes.HOLE}

    def _add_segments(self, number: int, found: Found, png: str) -> None:
        assert found.segments is not None
        ids, labels = found.segments.ids.numpy(), found.segments.labels.tolist()
        areas = np.bincount(ids.ravel(), minlength=len(labels) + 1).tolist()
        segments = [
            {"id": index, "category_id": self.classes.category_ids[label], "area": areas[index], "score": score}
            for index, (label, score) in enumerate(zip(labels, found.segments.scores.tolist(), strict=True), start=1)
        ]
        if self.submission is None:
            self.submission = Submission()
        self.submission.add(number, png, ids, segments)

    def _csv(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        names = self._categories()
        for image in self.images:
            number = image["id"]
            rows = (self.results.categories[number], self.results.scores[number], self.results.boxes[number])
            for category, score, box in zip(*(each.tolist() for each in rows), strict=True):
                name = names[category]
                writer.writerow([number, image["file_name"], category, name, score, *box])
        return text.getvalue()

    def _write_data_set(self, layout: str, folder: Path) -> None:
        annotations, losses, names = self._annotations(), Losses(), self.names or {}
        write = write_yolo if layout == "yolo" else write_voc
        places = write(folder, SPLIT, annotations, names, losses)
        if layout == "yolo":
            write_yaml(folder, [SPLIT], annotations.categories)
        else:
            write_label_map(folder, annotations.categories)
        for file, place in places.items():
            place_image(Path(file), folder / place)

    def _annotations(self) -> Annotations:
        """What was found as if somebody had drawn it: boxes are clipped to their image, and have their score beside."""
        index, boxes, categories, extras = [], [], [], []
        for row, image in enumerate(self.images):
            number, size = image["id"], (image["width"], image["height"])
            corners = self.results.boxes[number].copy()
            corners[:, 2:] += corners[:, :2]
            corners = corners.clip(0, np.tile(size, 2))
            sides = corners[:, 2:] - corners[:, :2]
            for each in np.flatnonzero((sides > 0).all(axis=1)).tolist():
                index.append(row)
                boxes.append([*corners[each, :2].tolist(), *sides[each].tolist()])
                categories.append(int(self.results.categories[number][each]))
                extras.append({"attributes": {"score": round(float(self.results.scores[number][each]), 6)}})
        return Annotations.of_boxes(
            files=[image["file_name"] for image in self.images],
            sizes=[(image["height"], image["width"]) for image in self.images],
            image_index=index,
            boxes=boxes,
            category_ids=categories,
            categories=self._categories(),
            extras=extras,
        )
