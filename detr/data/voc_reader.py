"""Pascal VOC's XML files, one an image, checked element by element: what is wrong is said with file and line."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.parsers import expat

from detr.data.coco_json import MAX_COORDINATE
from detr.errors import UserError

DECIMALS = 9  # of a pixel: what was written as a sum is exact again
VOC_DATABASE = "The VOC"  # …2007 Database: how the XMLs of the challenge itself begin, which count pixels from 1
SIDES = ("xmin", "ymin", "xmax", "ymax")
READ = ("name", "bndbox", "difficult")  # of an object
OF_IMAGES = ("filename", "size", "object", "folder")  # of a file; the folder is where it was once


@dataclass(slots=True)
class Element:
    """Holds one element of an XML file."""

    tag: str
    line: int
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def find(self, tag: str) -> Element | None:
        """Return the first child of this name."""
        return next((child for child in self.children if child.tag == tag), None)

    def value(self) -> Any:
        """Return its text, or what is in it: tag → value."""
        found: dict[str, list[Any]] = {}
        for child in self.children:
            found.setdefault(child.tag, []).append(child.value())
        return {tag: each if len(each) > 1 else each[0] for tag, each in found.items()} or self.text.strip()


@dataclass(frozen=True, slots=True)
class VocObject:
    """Holds one object."""

    name: str
    box: tuple[float, float, float, float]  # x, y, width, height in pixels
    difficult: bool
    extras: dict[str, Any]  # pose, truncated and what else there is


@dataclass(frozen=True)
class VocImage:
    """Holds what an XML file says of its image."""

    filename: str | None
    size: tuple[int, int] | None  # (height, width); None: not said
    objects: list[VocObject]
    unread: Counter[str]  # what else is said of the image


def read_xml(path: Path, first_pixel: int | None = None) -> VocImage:
    """Read one XML file.

    Args:
        path: of the file.
        first_pixel: the coordinate of the first pixel: 0, or 1 as in the VOC challenge, whose boxes include the last
            pixel; None: 1 where the file says that it is of the challenge's database.

    Raises:
        UserError: no XML, or an element is missing or not what it should be, with line, and what was expected.
    """
    root = parse(path)
    if root.tag != "annotation":
        raise UserError(f"{path}, line {root.line}: expected <annotation>, as Pascal VOC has it, got <{root.tag}>")
    source = root.find("source")
    database = None if source is None else source.find("database")
    if first_pixel is None:
        first_pixel = int(database is not None and database.text.strip().startswith(VOC_DATABASE))
    filename = root.find("filename")
    return VocImage(
        filename=None if filename is None else filename.text.strip() or None,
        size=_size(root, path),
        objects=[_object(child, path, first_pixel) for child in root.children if child.tag == "object"],
        unread=Counter(child.tag for child in root.children if child.tag not in OF_IMAGES and child.value()),
    )


def parse(path: Path) -> Element:
    """Return the root of an XML file, with the line of each element. Raises UserError: missing, or no XML."""
    stack = [Element("", 0)]
    parser = expat.ParserCreate()
    parser.buffer_text = True

    def start(tag: str, _: dict[str, str]) -> None:
        element = Element(tag, parser.CurrentLineNumber)
        stack[-1].children.append(element)
        stack.append(element)

    def text(data: str) -> None:
        stack[-1].text += data

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: stack.pop()
    parser.CharacterDataHandler = text
    try:
        parser.Parse(path.read_bytes(), True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such annotation file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (expat.ExpatError, ValueError, LookupError) as error:  # of the declared encoding, too
        line = getattr(error, "lineno", 1)
        raise UserError(f"{path}, line {line}: expected XML ({error}); export the file again") from None
    return stack[0].children[0]


def _size(root: Element, path: Path) -> tuple[int, int] | None:
    size = root.find("size")
    sides = [] if size is None else [size.find("height"), size.find("width")]
    values = [_number(side, path, "a whole number of pixels") for side in sides if side is not None]
    if len(values) < 2 or not all(values):  # some exporters write 0 for "unknown"
        return None
    for side, value in zip(sides, values, strict=True):
        if side is not None and (value < 0 or not value.is_integer()):
            raise UserError(f"{path}, line {side.line}: <{side.tag}>: expected a whole number of pixels, got {value:g}")
    return int(values[0]), int(values[1])


def _object(node: Element, path: Path, first_pixel: int) -> VocObject:
    name, box, difficult = (node.find(tag) for tag in READ)
    if name is None or not name.text.strip():
        raise UserError(f"{path}, line {(name or node).line}: expected the <name> of a class, got none")
    if box is None:
        raise UserError(f"{path}, line {node.line}: expected a <bndbox> in the object, got none")
    corners = []
    for side in SIDES:
        element = box.find(side)
        if element is None:
            raise UserError(f"{path}, line {box.line}: expected <{side}> in <bndbox>, got none")
        corners.append(_number(element, path, "a number of pixels"))
    x, y = corners[0] - first_pixel, corners[1] - first_pixel
    return VocObject(
        name=name.text.strip(),
        box=(x, y, round(corners[2] - x, DECIMALS), round(corners[3] - y, DECIMALS)),
        difficult=difficult is not None and _flag(difficult, path),
        extras={tag: value for tag, value in node.value().items() if tag not in READ and value},
    )


def _number(element: Element, path: Path, expected: str) -> float:
    try:
        value = float(element.text)
    except ValueError:
        value = math.nan
    if not abs(value) < MAX_COORDINATE:  # NaN compares False
        raise UserError(
            f"{path}, line {element.line}: <{element.tag}>: expected {expected}, got {element.text.strip()[:40]!r}"
        )
    return value


def _flag(element: Element, path: Path) -> bool:
    word = element.text.strip().lower()
    if word not in ("", "0", "1", "false", "true", "unspecified"):
        raise UserError(f"{path}, line {element.line}: <{element.tag}>: expected 0 or 1, got {word[:40]!r}")
    return word in ("1", "true")
