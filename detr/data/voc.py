"""Pascal VOC data sets: where images and XML files lie, in every layout that is common.

That of the challenge is JPEGImages/, Annotations/ and ImageSets/Main/SPLIT.txt, which lists names. Exporters write a
folder a split, with the XML files beside the images.

An object that is difficult is neither missed nor found in the challenge's evaluation, and nothing learns from it: it
becomes a crowd, which COCO's evaluation and training treat so.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from typing_extensions import TypedDict  # pydantic cannot check typing's before Python 3.12

from detr.data.annotations import Annotations, check_images_exist
from detr.data.cache import Cache
from detr.data.dataset import Split
from detr.data.image_files import FOLDERS, SUFFIXES, has_images, images_in, read_lines, warn_strays
from detr.data.images import image_size
from detr.data.splits import Holdout, Splits, missing_split
from detr.data.voc_reader import VocImage, read_xml
from detr.errors import UserError
from detr.structures import Classes

log = logging.getLogger(__name__)

LABEL_MAP = "labelmap.txt"  # names of the classes, one a line; CVAT and Datumaro write "name:r,g,b:parts:actions"
IMAGES = ("JPEGImages", "images")


class VocFiles(TypedDict):
    """Holds where one split lies; null: wherever the layout has it."""

    images: str | None  # folder
    annotations: str | None  # folder of the XML files
    list: str | None  # text file with a name a line; null: all images in the folder


@dataclass(frozen=True)
class Place:
    """Holds where one split lies."""

    images: Path
    annotations: Path
    names: Path | None  # the list


class VocSplits(Splits):
    """Builds the splits of one data set in Pascal VOC's format. Category ids count from 1 in the order of the names.

    Args:
        root: the data set's folder.
        names: of the classes; null: those in labelmap.txt, else all in the XML files, sorted.
        first_pixel: the coordinate of the first pixel: 0, as exporters have it, or 1 as in the challenge, whose boxes
            include the last pixel; null: 1 where an XML file says that it is of the challenge's database.
        train, val, test: where each lies; null: there is no such split.
        masks: must be false: there are boxes only.
        holdout, holdout_seed, cache: as in `Splits`.
    """

    def __init__(
        self,
        *,
        root: str,
        names: list[str] | None = None,
        first_pixel: Literal[0, 1] | None = None,
        train: VocFiles,
        val: VocFiles | None,
        test: VocFiles | None = None,
        masks: bool = False,
        holdout: Holdout = None,
        holdout_seed: int = 0,
        cache: Cache = False,
    ) -> None:
        super().__init__(root=root, masks=masks, holdout=holdout, holdout_seed=holdout_seed, cache=cache)
        if masks:
            raise UserError("dataset.masks: the XML files of Pascal VOC have boxes only; set dataset.masks=false")
        if not Path(root).is_dir():
            raise UserError(f"{root}: no such folder; set dataset.root")
        self.first_pixel = first_pixel
        self._splits: dict[str, VocFiles | None] = {"train": train, "val": val, "test": test}
        self._names = names

    def table(self, name: Split) -> dict[int, str]:
        if self._names is None:
            self._names = self._find_names()
        return dict(enumerate(self._names, start=1))

    def classes_from(self, categories: dict[int, str]) -> Classes:
        if not categories:
            raise UserError(f"{self.root}: no object in any XML file; a detector needs at least one class")
        return super().classes_from(categories)

    def there(self, name: Split) -> bool:
        try:
            return bool(self._place(name))
        except UserError:
            return False

    def read(self, name: Split, *, everything: bool = False) -> Annotations:
        """Return a split as its files have it; see `read_xml`. An image without XML file has no objects."""
        place = self._place(name)
        files, xmls = _files(place)
        found = [None if xml is None else read_xml(xml, self.first_pixel) for xml in xmls]
        if not any(xmls) and name != "test":
            raise UserError(
                f"{place.annotations}: no XML file for any of {len(files)} images; "
                f"dataset.{name}.annotations says where they lie"
            )
        if not all(xmls) and any(xmls):
            log.warning("%d of %d images of %s have no XML file: no objects", xmls.count(None), len(xmls), name)
        categories = self.table(name)
        ids = {each: category_id for category_id, each in categories.items()}
        objects = [
            (index, each, xmls[index])
            for index, image in enumerate(found)
            for each in (() if image is None else image.objects)
        ]
        for _, each, xml in objects:
            if each.name not in ids:
                raise UserError(
                    f'{xml}: the class "{each.name}" is none of {", ".join(ids)}; correct it, or add it to '
                    f"dataset.names or {LABEL_MAP}"
                )
        return Annotations.of_boxes(
            files=[str(file) for file in files],
            sizes=[_size_of(file, image) for file, image in zip(files, found, strict=True)],
            image_index=[index for index, _, _ in objects],
            boxes=[each.box for _, each, _ in objects],
            category_ids=[ids[each.name] for _, each, _ in objects],
            categories=categories,
            crowd=[each.difficult for _, each, _ in objects],
            extras=[{"attributes": each.extras} if each.extras else {} for _, each, _ in objects]
            if everything
            else None,
            annotated=any(xmls),
        )

    def unread(self, name: Split) -> Counter[str]:
        _, xmls = _files(self._place(name))
        counts: Counter[str] = Counter()
        for xml in xmls:
            if xml is not None:
                counts.update(f"<{tag}> of images" for tag in read_xml(xml).unread)
        return counts

    def _find_names(self) -> list[str]:
        """Those in the label map, else those that are used."""
        path = _base(Path(self.root)) / LABEL_MAP
        if path.exists():
            lines = [line for line in read_lines(path, "list of classes") if line and not line.startswith("# label:")]
            names = [line.rsplit(":", 3)[0] for line in lines]
            # Tools put it first, whether or not there is such a class.
            return names[1:] if names[:1] == ["background"] and "background" not in self._used_names() else names
        return self._used_names()

    def _used_names(self) -> list[str]:
        """Those of all splits, so that ids do not depend on which one is asked for."""
        places = []
        for name, files in self._splits.items():
            if files is not None:
                try:
                    places.append(self._place(name))  # type: ignore[arg-type]
                except UserError:
                    continue  # said when that split is asked for
        folders = {place.annotations for place in places}
        xmls = [xml for folder in sorted(folders) for xml in sorted(folder.rglob("*.xml"))]
        return sorted({each.name for xml in xmls for each in read_xml(xml, self.first_pixel).objects})

    def _place(self, name: Split) -> Place:
        files = self._splits[name]
        if files is None:
            raise missing_split(name, [split for split, files in self._splits.items() if files])
        found = place_of(Path(self.root), name)
        folder, xmls, names = files["images"], files["annotations"], files["list"]
        if found is None and folder is None:
            if name == "val":
                raise missing_split(name, [])
            raise UserError(
                f"{self.root}: no images of {name}; looked for ImageSets/Main/{name}.txt with Annotations and "
                f"JPEGImages, and for {name} with images and XML files; dataset.{name}.images says where they lie"
            )
        images = found.images if folder is None and found is not None else Path(str(folder))
        place = Place(
            images=images,
            annotations=Path(xmls) if xmls else found.annotations if found is not None else images,
            names=Path(names) if names else found.names if found is not None and xmls is None else None,
        )
        for path in (place.images, place.annotations, *([place.names] if place.names else [])):
            if not path.exists():
                raise UserError(f"{path}: no such file or folder; set dataset.root or dataset.{name}")
        return place


def place_of(root: Path, name: Split) -> Place | None:
    """Return where a split lies; None if no layout that is known has it."""
    base = _base(root)
    for folder in FOLDERS[name]:
        names = base / "ImageSets" / "Main" / f"{folder}.txt"
        if names.exists():
            return Place(_images_of(base, root), base / "Annotations", names)
        for images, xmls in (
            (root / "images" / folder, root / "annotations" / folder),
            (root / folder / "images", root / folder / "annotations"),
            (root / folder / "JPEGImages", root / folder / "Annotations"),
            (root / folder, root / folder),
        ):
            if has_images(images) and xmls.is_dir() and any(xmls.rglob("*.xml")):
                return Place(images, xmls, None)
    if name == "train" and (base / "Annotations").is_dir() and not (base / "ImageSets" / "Main").is_dir():
        return Place(_images_of(base, root), base / "Annotations", None)
    return None


def _base(root: Path) -> Path:
    """The folder with Annotations in or below a root: VOCdevkit/VOC2012 for what contains VOCdevkit."""
    for depth in ("", "*/", "*/*/"):
        found = sorted(path.parent for path in root.glob(f"{depth}Annotations") if path.is_dir())
        if len(found) > 1:
            raise UserError(f"{root}: {', '.join(map(str, found))} are data sets; choose one with dataset.root")
        if found:
            return found[0]
    return root


def _images_of(base: Path, root: Path) -> Path:
    """The images of a folder with Annotations: in it, else in the root, else beside it."""
    places = [folder / name for folder in (base, root, base.parent) for name in IMAGES]
    return next((place for place in places if has_images(place)), base / IMAGES[0])


def _files(place: Place) -> tuple[list[Path], list[Path | None]]:
    """The images of a split, and the XML file of each."""
    if place.names is None:
        files = images_in(place.images)
        stems = [file.relative_to(place.images).with_suffix("") for file in files]
    else:
        lines = [line for line in read_lines(place.names, "list of images") if line]
        stems = [Path(_stem(line, place)) for line in lines]
        files = []
    if not stems:
        raise UserError(f"{place.names or place.images}: no images; a data set needs at least one")
    xmls = [place.annotations / f"{stem}.xml" for stem in stems]
    found = [xml if xml.exists() else None for xml in xmls]
    if place.names is not None:
        suffix_of = {path.relative_to(place.images).with_suffix(""): path for path in images_in(place.images)}
        files = [suffix_of.get(stem) or _by_filename(place, stem, xml) for stem, xml in zip(stems, found, strict=True)]
        check_images_exist(map(str, files), str(place.names))
    else:
        known = [xml for xml in found if xml is not None]
        warn_strays(known, ".xml", set(known), "image")
    return files, found


def _stem(line: str, place: Place) -> str:
    """The name in a line of a list. Those of one class have 1, -1 or 0 behind it, and some lists have suffixes."""
    if (place.annotations / f"{line}.xml").exists():
        return line
    name = re.sub(r"\s+(-1|0|1)$", "", line)
    return re.sub(r"\.(xml|jpe?g|png|bmp|tiff?|webp)$", "", name, flags=re.IGNORECASE)


def _by_filename(place: Place, stem: Path, xml: Path | None) -> Path:
    """The image that an XML file of another name says it is of."""
    name = None if xml is None else read_xml(xml).filename
    return place.images / (name or f"{stem}{SUFFIXES[0]}")


def _size_of(file: Path, image: VocImage | None) -> tuple[int, int]:
    return image_size(str(file)) if image is None or image.size is None else image.size
