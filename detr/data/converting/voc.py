"""A split as Pascal VOC's XML files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

from detr.data.annotations import Annotations
from detr.data.converting.folder import put
from detr.data.converting.losses import Losses
from detr.data.segmentations import NOTHING, CocoSegmentations
from detr.data.voc_reader import DECIMALS, READ, SIDES
from detr.errors import UserError

VISIBLE = 0.01  # square pixels
TAG = r"[A-Za-z_][\w.-]*"


def write_voc(
    folder: Path, name: str, annotations: Annotations, names: Mapping[str, str], losses: Losses
) -> dict[str, str]:
    """Write Annotations/*.xml and ImageSets/Main/NAME.txt, and return where in `folder` each image belongs.

    Arguments as for `write_coco`. Coordinates stay what they are: the first pixel is 0.
    """
    stems = [Path(names[file]).stem for file in annotations.files.tolist()]
    for index, stem in enumerate(stems if annotations.annotated else []):
        root = _annotation(annotations, index, names[str(annotations.files[index])], losses)
        ElementTree.indent(root, "\t")
        put(folder / "Annotations" / f"{stem}.xml", ElementTree.tostring(root, encoding="unicode") + "\n")
    put(folder / "ImageSets" / "Main" / f"{name}.txt", "".join(f"{stem}\n" for stem in stems))
    if sorted(annotations.categories) != list(range(1, len(annotations.categories) + 1)):
        losses.once("{} category ids are not kept: Pascal VOC has names only", len(annotations.categories))
    return {file: f"JPEGImages/{names[file]}" for file in annotations.files.tolist()}


def write_label_map(folder: Path, categories: Mapping[int, str]) -> None:
    """Write labelmap.txt, which keeps classes in order. Raises UserError where a name cannot be written."""
    names = [name for _, name in sorted(categories.items())]
    for name in names:
        if name != name.strip() or "\n" in name:
            raise UserError(f'the class "{name}" begins or ends with a blank, or has several lines; rename it')
    lines = ["# label:color_rgb:parts:actions", *(f"{name}:::" for name in names)]
    put(folder / "labelmap.txt", "".join(f"{line}\n" for line in lines))


def _annotation(annotations: Annotations, index: int, filename: str, losses: Losses) -> ElementTree.Element:
    root = ElementTree.Element("annotation")
    height, width = annotations.sizes[index].tolist()
    _add(root, "folder", "JPEGImages")
    _add(root, "filename", filename)
    size = ElementTree.SubElement(root, "size")
    for tag, value in (("width", width), ("height", height), ("depth", 3)):
        _add(size, tag, str(value))
    for row in range(*annotations.objects(index).indices(len(annotations.boxes))):
        root.append(_object(annotations, row, losses))
    return root


def _object(annotations: Annotations, row: int, losses: Losses) -> ElementTree.Element:
    node = ElementTree.Element("object")
    _add(node, "name", annotations.categories[int(annotations.category_ids[row])])
    extras = {} if annotations.extras is None else annotations.extras[row]
    attributes = extras.get("attributes")
    for key, value in attributes.items() if isinstance(attributes, dict) else ():
        if isinstance(value, str | int | float) and re.fullmatch(TAG, key) and key not in READ:
            _add(node, key, str(int(value) if isinstance(value, bool) else value))
        else:
            losses.add(f'"{key}" of {{}} objects is left out')
    for key in extras:
        if key != "attributes" or not isinstance(attributes, dict):
            losses.add(f'"{key}" of {{}} objects is left out: Pascal VOC has no place for it')
    _add(node, "difficult", str(int(annotations.crowd[row])))
    if annotations.crowd[row]:
        losses.add("{} crowds (regions to ignore) become objects that are difficult")
    x, y, w, h = annotations.boxes[row].tolist()
    if abs(float(annotations.areas[row]) - w * h) > VISIBLE:
        losses.add('"area" of {} objects becomes that of their boxes')
    masks = annotations.segmentations
    if isinstance(masks, CocoSegmentations) and masks.kinds[row] != NOTHING:
        losses.add("{} masks are left out: Pascal VOC's XML has boxes only")
    box = ElementTree.SubElement(node, "bndbox")
    corners = (x, y, round(x + w, DECIMALS), round(y + h, DECIMALS))
    for tag, value in zip(SIDES, corners, strict=True):
        _add(box, tag, str(int(value) if value.is_integer() else value))
    return node


def _add(parent: ElementTree.Element, tag: str, text: str) -> None:
    ElementTree.SubElement(parent, tag).text = text
