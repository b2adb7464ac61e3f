"""COCO-format data sets: the splits of one data set."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal

from typing_extensions import TypedDict  # pydantic cannot check typing's before Python 3.12

from detr.data.annotations import Annotations, check_images_exist
from detr.data.cache import Cache
from detr.data.coco_reader import read_annotations, read_categories, unread
from detr.data.dataset import Split
from detr.data.splits import Holdout, Splits, missing_split
from detr.errors import UserError
from detr.structures import Classes

MAX_IDENTITY_CLASSES = 10_000  # beyond it the ids are numbers of something, not an enumeration of classes


class SplitFiles(TypedDict):
    """Holds where one split lies: an image folder for all annotation files, or one each."""

    images: str | list[str]
    annotations: str | list[str]


class CocoSplits(Splits):
    """Builds the splits of one data set in COCO format.

    Args:
        root: the data set's folder; the paths of the splits usually start with it.
        categories: "contiguous": classes 0 … n-1 in the order of the category ids, which may have gaps;
            "identity": class = category id, as official DETR has it for COCO (91 classes).
        train, val, test: image folders and annotation files; null: there is no such split.
        masks: whether samples have instance masks, from the annotations' polygons or run lengths.
        holdout, holdout_seed, cache: as in `Splits`.
    """

    def __init__(
        self,
        *,
        root: str,
        categories: Literal["contiguous", "identity"],
        train: SplitFiles,
        val: SplitFiles | None,
        test: SplitFiles | None = None,
        masks: bool = False,
        holdout: Holdout = None,
        holdout_seed: int = 0,
        cache: Cache = False,
    ) -> None:
        super().__init__(root=root, masks=masks, holdout=holdout, holdout_seed=holdout_seed, cache=cache)
        self._mapping = categories
        self._splits: dict[str, SplitFiles | None] = {"train": train, "val": val, "test": test}

    def table(self, name: Split) -> dict[int, str]:
        return read_categories(_paths(self._files(name)["annotations"]))

    def there(self, name: Split) -> bool:
        files = self._splits[name]
        return files is not None and any(Path(path).exists() for path in _paths(files["annotations"]))

    def places(self, name: Split) -> tuple[list[str], list[str]]:
        """Return the image folders and the annotation files of a split. Raises UserError if it is not set."""
        files = self._files(name)
        return _paths(files["images"]), _paths(files["annotations"])

    def read(self, name: Split, *, everything: bool = False) -> Annotations:
        """Return a split as its files have it; see `read_annotations`."""
        files = self._files(name)
        paths = _paths(files["annotations"])
        annotations = read_annotations(
            _paths(files["images"]),
            paths,
            require_annotations=name != "test",
            masks="where given" if everything else self.masks,
            extras=everything,
        )
        check_images_exist(annotations.files.tolist(), ", ".join(paths))
        return annotations

    def unread(self, name: Split) -> Counter[str]:
        return sum((unread(Path(path)) for path in _paths(self._files(name)["annotations"])), start=Counter())

    def classes_from(self, categories: dict[int, str]) -> Classes:
        files = ", ".join(_paths(self._files("train")["annotations"]))
        if not categories:
            raise UserError(f"{files}: no categories; a detector needs at least one")
        if self._mapping == "contiguous":
            return Classes.contiguous(categories)
        if min(categories) < 0 or max(categories) >= MAX_IDENTITY_CLASSES:
            raise UserError(
                f"{files}: category ids {min(categories)} … {max(categories)} cannot be class indices; "
                "use dataset.categories=contiguous"
            )
        return Classes.identity(categories)

    def _files(self, name: Split) -> SplitFiles:
        files = self._splits[name]
        if files is None:
            raise missing_split(name, [split for split, files in self._splits.items() if files])
        return files


def _paths(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
