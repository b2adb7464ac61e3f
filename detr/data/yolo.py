"""YOLO-format data sets: where images, labels and names lie, in every layout that is common.

data.yaml (`path`, `train`, `val`, `test`, `names`, `nc`) is that of ultralytics, also as Roboflow and CVAT
write it. The label file of …/images/a/1.jpg is …/labels/a/1.txt, or 1.txt beside it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from typing_extensions import TypedDict  # pydantic cannot check typing's before Python 3.12

from detr.data.annotations import Annotations, check_images_exist
from detr.data.cache import Cache
from detr.data.dataset import Split
from detr.data.image_files import FOLDERS, has_images, images_in, paths, read_lines, warn_strays
from detr.data.splits import Holdout, Splits, missing_split
from detr.data.yolo_reader import read_yolo
from detr.errors import UserError
from detr.structures import Classes

log = logging.getLogger(__name__)

NAMES = ("classes.txt", "labels/classes.txt", "obj.names")  # where there is no data.yaml: a class a line
NO_LABELS = ("classes.txt", "labels.txt", "notes.txt", "train.txt", "val.txt", "test.txt")  # beside label files
Place = str | list[str] | None


class YoloFiles(TypedDict):
    """Holds where one split lies; null: wherever data.yaml says, or the layout has it."""

    images: Place  # folders, or text files that list images
    annotations: Place  # folders of the label files, as many; null: labels/ for images/, else beside the images


class YoloSplits(Splits):
    """Builds the splits of one data set in YOLO format. A category id is the number that the label files have.

    Args:
        root: the data set's folder.
        data: its data.yaml; null: the one in `root`, if there is one.
        names: of the classes; null: those in data.yaml, else in classes.txt or obj.names.
        train, val, test: where each lies; null: there is no such split.
        masks: whether samples have instance masks, from polygons.
        holdout, holdout_seed, cache: as in `Splits`.
    """

    def __init__(
        self,
        *,
        root: str,
        data: str | None = None,
        names: list[str] | None = None,
        train: YoloFiles,
        val: YoloFiles | None,
        test: YoloFiles | None = None,
        masks: bool = False,
        holdout: Holdout = None,
        holdout_seed: int = 0,
        cache: Cache = False,
    ) -> None:
        super().__init__(root=root, masks=masks, holdout=holdout, holdout_seed=holdout_seed, cache=cache)
        if not Path(root).is_dir():
            raise UserError(f"{root}: no such folder; set dataset.root")
        self._splits: dict[str, YoloFiles | None] = {"train": train, "val": val, "test": test}
        self._names = names
        self._file = Path(data) if data is not None else find_yaml(Path(root))
        self._data = {} if self._file is None else load_yaml(self._file)

    def table(self, name: Split) -> dict[int, str]:
        if self._names is not None:
            return dict(enumerate(self._names))
        if self._file is not None:
            return names_of(self._data, self._file)
        for place in NAMES:
            path = Path(self.root, place)
            if path.exists():
                return dict(enumerate(line for line in read_lines(path, "list of classes") if line))
        raise UserError(
            f"{self.root}: no names of classes; looked for a data.yaml with names, {', '.join(NAMES)}; "
            "dataset.names=[…] gives them"
        )

    def classes_from(self, categories: dict[int, str]) -> Classes:
        if not categories:
            raise UserError(f"{self._file or self.root}: no classes; a detector needs at least one")
        return super().classes_from(categories)

    def there(self, name: Split) -> bool:
        files = self._splits[name]
        named = files is not None and (files["images"] is not None or bool(_entry(self._data, name)))
        return named or (files is not None and folder_of(Path(self.root), name) is not None)

    def read(self, name: Split, *, everything: bool = False) -> Annotations:
        """Return a split as its files have it; see `read_yolo`."""
        files = self._files(name)
        places = self._places(name, files["images"])
        categories = self.table(name)
        images = [(file, place) for place in places for file in self._images_of(place)]
        if not images:
            raise UserError(f"{', '.join(map(str, places))}: no images; a data set needs at least one")
        listed = [file for file, place in images if place.is_file()]
        check_images_exist(map(str, listed), ", ".join(map(str, places)))
        labels = self._labels([file for file, _ in images], places, files["annotations"])
        if all(path is None for path in labels) and name != "test":
            looked = next(iter(_label_places(images[0][0])))
            raise UserError(
                f"{', '.join(map(str, places))}: none of {len(images)} images has a label file, such as {looked}; "
                f"dataset.{name}.annotations says where they lie"
            )
        keypoints = "kpt_shape" in self._data
        if keypoints:
            log.info("%s: keypoints are left out, boxes are read", self._file)
        annotations = read_yolo(
            [file for file, _ in images],
            labels,
            categories,
            masks=self.masks or everything,
            keypoints=keypoints,
            annotated=any(path is not None for path in labels),
        )
        if self.masks and not everything:
            _check_masks(annotations)
        return annotations

    def _files(self, name: Split) -> YoloFiles:
        files = self._splits[name]
        if files is None:
            raise missing_split(name, [split for split, files in self._splits.items() if files])
        return files

    def _places(self, name: Split, given: Place) -> list[Path]:
        """Folders and lists that have the images of a split."""
        if given is not None:
            return [_existing(place, f"dataset.{name}.images") for place in paths(given)]
        if _entry(self._data, name):
            return places_in_yaml(self._data, self._file or Path(), name)
        found = folder_of(Path(self.root), name)
        if found is None and self._file is not None:
            raise UserError(f"{self._file} names no {name}; {missing_split(name, ['train'])}")
        if found is None:
            raise (
                missing_split(name, ["train"])
                if name == "val"
                else UserError(
                    f"{self.root}: no images of {name}; looked for images/{name}, {name}/images and {name}; "
                    f"dataset.{name}.images says where they lie"
                )
            )
        return [found]

    def _images_of(self, place: Path) -> list[Path]:
        if place.is_dir():
            return images_in(place)
        lines = [line for line in read_lines(place, "list of images") if line]
        bases = [place.parent, Path(self.root), *([_base(self._data, self._file)] if self._file else [])]
        # Darknet's lists begin with data/, which is the folder that they are in.
        tried = [[base / each for each in (line, line.removeprefix("data/")) for base in bases] for line in lines]
        return [next((path for path in each if path.exists()), each[0]) for each in tried]

    def _labels(self, images: Sequence[Path], places: Sequence[Path], given: Place) -> list[Path | None]:
        """[I] the label file of each image; label files without an image are warned of."""
        folders = [] if given is None else [_existing(place, "dataset.*.annotations") for place in paths(given)]
        labels = [
            next((path for path in _label_places(image, places, folders) if path.exists()), None) for image in images
        ]
        found = [path for path in labels if path is not None]
        others = {folder / name for folder in {path.parent for path in found} for name in NO_LABELS}
        warn_strays(found, ".txt", {*found, *others}, "image")
        return labels


def find_yaml(root: Path) -> Path | None:
    """Return the YAML file in a folder that has `names` of classes, if there is one: data.yaml before others.

    Raises:
        UserError: several have.
    """
    candidates = [path for path in sorted(root.glob("*.y*ml")) if path.suffix in (".yaml", ".yml")]
    for name in ("data.yaml", "data.yml", "dataset.yaml"):
        if root / name in candidates:
            return root / name
    found = [path for path in candidates if _has_names(path)]
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise UserError(f"{root}: {names} have names of classes; choose one with dataset=yolo dataset.data=PATH")
    return found[0] if found else None


def _has_names(path: Path) -> bool:
    """Whether it is a data.yaml of another name, not any other YAML."""
    try:
        return "names" in load_yaml(path)
    except UserError:
        return False


def load_yaml(path: Path) -> dict[str, Any]:
    """Return the content of a data.yaml. Raises UserError if it is missing, or no mapping."""
    try:
        content = yaml.safe_load(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check dataset.data") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check dataset.data") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected keys such as train, val and names, got a {type(content).__name__}")
    return content


def names_of(data: Mapping[str, Any], path: Path) -> dict[int, str]:
    """Return class → name of a data.yaml. Raises UserError if `names` is none, or contradicts `nc`."""
    names = data.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not all(isinstance(key, int) and key >= 0 for key in names):
        raise UserError(f"{path}: names: expected a list, or number: name of each class, got {str(names)[:60]}")
    table = {key: str(name) for key, name in names.items()}
    if len(set(table.values())) < len(table):
        twice = next(name for name in table.values() if list(table.values()).count(name) > 1)
        raise UserError(f'{path}: names: "{twice}" stands for several classes; rename one')
    count = data.get("nc", len(table))
    if count != len(table):
        raise UserError(f"{path}: nc is {count}, but names has {len(table)}; correct one of them")
    return dict(sorted(table.items()))


def places_in_yaml(data: Mapping[str, Any], path: Path, name: Split) -> list[Path]:
    """Return the folders and lists that a data.yaml names for a split.

    They are relative to its `path`, else to the file itself. Roboflow writes ../train/images for what is beside it.

    Raises:
        UserError: one is not there.
    """
    value = _entry(data, name)
    entries = value if isinstance(value, list) else [value]
    found = []
    for entry in map(str, entries):
        bases = dict.fromkeys([_base(data, path), path.parent])
        tried = [base / each for each in (entry, entry.removeprefix("../")) for base in bases]
        existing = next((place for place in tried if place.exists()), None)
        if existing is None:
            looked = ", ".join(dict.fromkeys(os.path.normpath(place) for place in tried))
            raise UserError(
                f"{path}: {name}: {entry} is not there; looked for {looked}; correct it, or give dataset=yolo "
                f"dataset.{name}.images=FOLDER"
            )
        found.append(Path(os.path.normpath(existing)))
    return found


def folder_of(root: Path, name: Split) -> Path | None:
    """Return the folder of a split's images, or the list of them, where no data.yaml tells it.

    Images that are in no split are train's. Lists beside obj.names are Darknet's, as CVAT writes them, too.
    """
    for folder in FOLDERS[name]:
        if (root / "obj.names").exists() and (root / f"{folder}.txt").exists():
            return root / f"{folder}.txt"
        for place in (root / "images" / folder, root / folder / "images", root / folder):
            if has_images(place):
                return place
    split = any(has_images(root / "images" / folder) for folders in FOLDERS.values() for folder in folders)
    return root / "images" if name == "train" and not split and has_images(root / "images") else None


def _entry(data: Mapping[str, Any], name: Split) -> Any:
    """What a data.yaml says of a split; validation has two names."""
    return data.get(name) or (data.get("valid") if name == "val" else None)


def _base(data: Mapping[str, Any], path: Path) -> Path:
    """Where the places in a data.yaml start, unless it was written on another machine."""
    return path.parent / os.path.expanduser(str(data.get("path") or "."))


def _existing(place: Path, key: str) -> Path:
    if not place.exists():
        raise UserError(f"{place}: no such file or folder; check {key}")
    return place


def _label_places(image: Path, places: Sequence[Path] = (), folders: Sequence[Path] = ()) -> list[Path]:
    """Where the label file of an image may be; `folders`: label folders, for `places` of images."""
    if folders:
        inside = [place for place in places if place.is_dir() and image.is_relative_to(place)]
        relative = image.relative_to(inside[0]) if inside else Path(image.name)
        return [(folder / relative).with_suffix(".txt") for folder in folders]
    head, images, tail = image.as_posix().rpartition("/images/")
    mirrored = [Path(f"{head}/labels/{tail}")] if images else []
    if not images and image.as_posix().startswith("images/"):
        mirrored = [Path("labels", *image.parts[1:])]
    return [path.with_suffix(".txt") for path in [*mirrored, image]]


def _check_masks(annotations: Annotations) -> None:
    segmentations: Any = annotations.segmentations
    boxes_only = annotations.image_index[segmentations.starts == segmentations.stops]
    if len(boxes_only):
        raise UserError(
            f"{len(boxes_only)} objects, such as one in the labels of {annotations.files[boxes_only[0]]}, have a box "
            "without polygon, but masks are asked for; add polygons, or set dataset.masks=false"
        )
