"""COCO-format data sets: the splits of one data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from typing_extensions import TypedDict  # pydantic cannot check typing's before Python 3.12

from detr.data.annotations import check_images_exist
from detr.data.coco_reader import read_annotations, read_categories
from detr.data.dataset import AnnotatedImages, Split, Transform
from detr.errors import UserError
from detr.structures import Classes

MAX_IDENTITY_CLASSES = 10_000  # beyond it the ids are numbers of something, not an enumeration of classes


class SplitFiles(TypedDict):
    """Holds where one split lies: an image folder for all annotation files, or one each."""

    images: str | list[str]
    annotations: str | list[str]


class CocoSplits:
    """Builds the splits of one data set in COCO format.

    Args:
        root: the data set's folder; the paths of the splits usually start with it.
        categories: "contiguous": classes 0 … n-1 in the order of the category ids, which may have gaps;
            "identity": class = category id, as official DETR has it for COCO (91 classes).
        train, val, test: image folders and annotation files.
        masks: whether samples have instance masks, from the annotations' polygons or run lengths.
    """

    def __init__(
        self,
        *,
        root: str,
        categories: Literal["contiguous", "identity"],
        train: SplitFiles,
        val: SplitFiles,
        test: SplitFiles | None = None,
        masks: bool = False,
    ) -> None:
        self.root = root
        self._mapping = categories
        self.masks = masks
        self._splits: dict[str, SplitFiles | None] = {"train": train, "val": val, "test": test}
        self._classes: Classes | None = None

    @property
    def classes(self) -> Classes:
        """Return the categories of the training annotations, read when first asked for."""
        if self._classes is None:
            files = _paths(self._files("train")["annotations"])
            self._classes = self._classes_from(self.categories("train"), files)
        return self._classes

    def categories(self, name: Split) -> dict[int, str]:
        """Return category id → name, as the annotations of a split list them."""
        return read_categories(_paths(self._files(name)["annotations"]))

    def split(
        self, name: Split, *, transform: Transform, seed: int = 0, classes: Classes | None = None
    ) -> AnnotatedImages:
        """Return one split, validated. With `classes` (of a checkpoint), the training annotations are not read.

        Raises:
            UserError: whatever is wrong with the files, naming file and id; see `read_annotations`.
        """
        files = self._files(name)
        paths = _paths(files["annotations"])
        annotations = read_annotations(
            _paths(files["images"]), paths, require_annotations=name != "test", masks=self.masks
        )
        check_images_exist(annotations.files.tolist(), ", ".join(paths))
        if classes is None:
            classes = self._learned_classes(name, annotations.categories)
        return AnnotatedImages(annotations, classes, transform=transform, seed=seed)

    def _learned_classes(self, name: Split, categories: dict[int, str]) -> Classes:
        """Those of the training split, whose categories were just read if it is `name`."""
        if name == "train" and self._classes is None:
            self._classes = self._classes_from(categories, _paths(self._files("train")["annotations"]))
        return self.classes

    def _files(self, name: str) -> SplitFiles:
        files = self._splits.get(name)
        if files is None:
            given = [split for split, files in self._splits.items() if files]
            raise UserError(f"dataset.{name} is not set; this data set has the splits {', '.join(given)}")
        return files

    def _classes_from(self, categories: dict[int, str], files: Sequence[str]) -> Classes:
        if not categories:
            raise UserError(f"{', '.join(files)}: no categories; a detector needs at least one")
        if self._mapping == "contiguous":
            return Classes.contiguous(categories)
        if min(categories) < 0 or max(categories) >= MAX_IDENTITY_CLASSES:
            raise UserError(
                f"{', '.join(files)}: category ids {min(categories)} … {max(categories)} cannot be class indices; "
                "use dataset.categories=contiguous"
            )
        return Classes.identity(categories)


def _paths(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
