"""A split as YOLO's text files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml

from detr.data.annotations import Annotations
from detr.data.converting.folder import put
from detr.data.converting.losses import Losses
from detr.data.segmentations import NOTHING, POLYGONS, RUN_LENGTHS, CocoSegmentations

VISIBLE = 0.01  # pixels, or square pixels: what is less is rounding


def write_yolo(
    folder: Path, name: str, annotations: Annotations, names: Mapping[str, str], losses: Losses
) -> dict[str, str]:
    """Write labels/NAME/*.txt, and return where in `folder` each image belongs. Arguments as for `write_coco`."""
    index_of = {category_id: index for index, category_id in enumerate(sorted(annotations.categories))}
    if any(category_id != index for category_id, index in index_of.items()):
        losses.once("{} category ids become the numbers of YOLO's classes, which count from 0", len(index_of))
    for index, file in enumerate(annotations.files.tolist() if annotations.annotated else []):
        lines = [
            line
            for row in range(*annotations.objects(index).indices(len(annotations.boxes)))
            if (line := _line(annotations, row, index, index_of, losses))
        ]
        text = "".join(f"{line}\n" for line in lines)
        put(folder / "labels" / name / f"{Path(names[file]).stem}.txt", text)
    return {file: f"images/{name}/{names[file]}" for file in annotations.files.tolist()}


def write_yaml(folder: Path, splits: Sequence[str], categories: Mapping[int, str]) -> None:
    """Write data.yaml, of which places are relative to the file itself."""
    content = {name: f"images/{name}" for name in splits}
    table = {index: name for index, (_, name) in enumerate(sorted(categories.items()))}
    text = yaml.safe_dump({**content, "nc": len(table), "names": table}, sort_keys=False, allow_unicode=True)
    put(folder / "data.yaml", text)


def _line(annotations: Annotations, row: int, index: int, index_of: Mapping[int, int], losses: Losses) -> str | None:
    """One object; None where YOLO has no place for it."""
    if annotations.crowd[row]:
        losses.add("{} crowds (regions to ignore) are left out: YOLO has none")
        return None
    for key, value in ({} if annotations.extras is None else annotations.extras[row]).items():
        for inner in value if key == "attributes" and isinstance(value, dict) else [key]:
            losses.add(f'"{inner}" of {{}} objects is left out: YOLO has boxes and polygons only')
    height, width = annotations.sizes[index].tolist()
    number = index_of[int(annotations.category_ids[row])]
    polygon = _polygon(annotations, row, losses)
    box, area = annotations.boxes[row], float(annotations.areas[row])
    if polygon is not None:
        xs, ys = np.array(polygon[0::2]), np.array(polygon[1::2])
        around = np.array([xs.min(), ys.min(), np.ptp(xs), np.ptp(ys)])
        if min(around[:2]) >= 0 and xs.max() <= width and ys.max() <= height:
            if np.abs(around - box).max() > VISIBLE:
                losses.add("the boxes of {} objects become those around their polygons")
            if abs(abs(float(xs @ np.roll(ys, -1) - ys @ np.roll(xs, -1))) / 2 - area) > VISIBLE:
                losses.add('"area" of {} objects becomes that of their polygons')
            fractions = [value / (height if i % 2 else width) for i, value in enumerate(polygon)]
            return " ".join([str(number), *map(repr, fractions)])
        losses.add("{} polygons that leave their image are left out: their boxes are kept")
    if abs(area - box[2] * box[3]) > VISIBLE:
        losses.add('"area" of {} objects becomes that of their boxes')
    x, y, w, h = box.tolist()
    centre = (x + w / 2, y + h / 2)
    if not (0 <= centre[0] <= width and 0 <= centre[1] <= height and 0 <= w <= width and 0 <= h <= height):
        losses.add("{} boxes that lie outside of their image for the most part, or have a negative side, are clipped")
        left, right = np.clip(sorted((x, x + w)), 0, width).tolist()
        top, bottom = np.clip(sorted((y, y + h)), 0, height).tolist()
        w, h, centre = right - left, bottom - top, ((left + right) / 2, (top + bottom) / 2)
    return " ".join([str(number), *map(repr, (centre[0] / width, centre[1] / height, w / width, h / height))])


def _polygon(annotations: Annotations, row: int, losses: Losses) -> list[float] | None:
    """The outline x, y, x, y … of an object; several parts are joined by lines there and back, as ultralytics does."""
    masks = annotations.segmentations
    if not isinstance(masks, CocoSegmentations) or masks.kinds[row] == NOTHING:
        return None
    if masks.kinds[row] == RUN_LENGTHS:
        losses.add("{} masks as run lengths are left out: YOLO has polygons")
        return None
    assert masks.kinds[row] == POLYGONS
    parts = masks.polygons(row)
    if len(parts) > 1:
        losses.add("the polygons of {} objects in several parts are joined into one")
    there = [value for part in parts for value in (*part, *part[:2])] if len(parts) > 1 else list(parts[0])
    back = [value for part in parts[-2::-1] for value in part[:2]] if len(parts) > 1 else []
    return there + back
