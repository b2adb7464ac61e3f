"""Errors, thresholds and confusion once more, as plainly as they can be written: loops, no arrays, none of our code."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from hypothesis import strategies as st

from detr.evaluation.results import Results

CATEGORIES = (3, 7)  # ids with gaps
Box = list[float]
Item = dict[str, Any]


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Item, list[Item]]:
    """A truth and boxes on a coarse lattice: overlaps of exactly 0.5 and 0.1, equal scores, crowds, empty images."""
    box = st.tuples(*[st.integers(0, 12)] * 2, *[st.integers(2, 10)] * 2).map(lambda each: [float(v) for v in each])
    objects = st.fixed_dictionaries(
        {
            "image_id": st.sampled_from([5, 2, 9]),
            "category_id": st.sampled_from(CATEGORIES),
            "bbox": box,
            "iscrowd": st.sampled_from([0, 0, 0, 0, 1]),
        }
    )
    annotations = draw(st.lists(objects, max_size=10))
    shifted = st.sampled_from(annotations) if annotations else objects
    shift = st.lists(st.sampled_from([-3.0, -1.0, 0.0, 0.0, 1.0, 2.0]), min_size=2, max_size=2)
    rows = [
        {
            "image_id": each["image_id"],
            "category_id": draw(st.sampled_from([each["category_id"], each["category_id"], *CATEGORIES])),
            "bbox": [each["bbox"][0] + move[0], each["bbox"][1] + move[1], *each["bbox"][2:]],
            "score": draw(st.sampled_from([0.1, 0.25, 0.5, 0.6, 0.65, 0.9])),
        }
        for each, move in draw(st.lists(st.tuples(st.one_of(shifted, objects), shift), max_size=14))
    ]
    return truth_of(annotations), rows


def truth_of(annotations: list[Item], images: tuple[int, ...] = (5, 2, 9)) -> Item:
    return {
        "images": [{"id": image, "width": 40, "height": 40} for image in images],
        "categories": [{"id": each, "name": f"class {each}"} for each in CATEGORIES],
        "annotations": [
            {"id": number, "area": each["bbox"][2] * each["bbox"][3], "iscrowd": 0} | each
            for number, each in enumerate(annotations, start=1)
        ],
    }


def results_of(rows: list[Item]) -> Results:
    return Results.of(rows)


def intersection(a: Box, b: Box) -> float:
    across = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    down = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return across * down if across > 0 and down > 0 else 0.0


def iou(a: Box, b: Box) -> float:
    both = intersection(a, b)
    return both / (a[2] * a[3] + b[2] * b[3] - both)


class Plain:
    """Every box with what it is: `right`, `ignored`, an error's kind; every object with whether it is missed."""

    def __init__(self, truth: Item, rows: list[Item]) -> None:
        self.objects = [dict(each) for each in truth["annotations"] if not each["iscrowd"]]
        self.boxes: list[Item] = []
        for image in sorted(each["id"] for each in truth["images"]):
            boxes = sorted((dict(r) for r in rows if r["image_id"] == image), key=lambda row: -row["score"])
            objects = [each for each in self.objects if each["image_id"] == image]
            crowds = [each for each in truth["annotations"] if each["image_id"] == image and each["iscrowd"]]
            self.match(boxes, objects, crowds)
            self.judge(boxes, objects)
            self.boxes += boxes

    def match(self, boxes: list[Item], objects: list[Item], crowds: list[Item]) -> None:
        for each in objects:
            each["taken"] = each["claimed"] = False
        for box in boxes:
            box |= {"right": False, "ignored": False, "kind": "", "heir": None}
            best = None
            for each in objects:
                overlap = iou(box["bbox"], each["bbox"])
                fits = each["category_id"] == box["category_id"] and not each["taken"] and overlap >= 0.5
                if fits and (best is None or overlap >= iou(box["bbox"], best["bbox"])):
                    best = each
            if best is not None:
                box["right"] = best["taken"] = True
                continue
            for crowd in crowds:
                inside = intersection(box["bbox"], crowd["bbox"]) / (box["bbox"][2] * box["bbox"][3])
                box["ignored"] |= crowd["category_id"] == box["category_id"] and inside >= 0.5

    def judge(self, boxes: list[Item], objects: list[Item]) -> None:
        """In the order of tidecv: too far off, another class, twice, on nothing, or both."""
        for box in boxes:
            if box["right"] or box["ignored"]:
                continue
            own = [each for each in objects if each["category_id"] == box["category_id"]]
            others = [each for each in objects if each["category_id"] != box["category_id"]]
            nearest, other = (
                max(some, key=lambda e: iou(box["bbox"], e["bbox"]), default=None) for some in (own, others)
            )
            near = iou(box["bbox"], nearest["bbox"]) if nearest else 0.0
            near_other = iou(box["bbox"], other["bbox"]) if other else 0.0
            meant = None
            if 0.1 <= near <= 0.5:
                box["kind"], meant = "localisation", nearest
            elif near_other >= 0.5:
                box["kind"], meant = "classification", other
            elif near >= 0.5:
                box["kind"] = "duplicate"
            elif max(near, near_other) <= 0.1:
                box["kind"] = "background"
            else:
                box["kind"] = "both"
            if meant is not None and not meant["taken"] and not meant["claimed"]:
                meant["claimed"], box["heir"] = True, meant["category_id"]

    @property
    def missed(self) -> list[Item]:
        return [each for each in self.objects if not each["taken"] and not each["claimed"]]

    def counts(self) -> Counter[str]:
        kinds = Counter(box["kind"] for box in self.boxes if box["kind"])
        return kinds + Counter({"missed": len(self.missed)})

    def ap50(self, mended: str = "") -> float | None:
        """As it would be if one kind of error were mended."""
        aps = []
        for category in sorted({each["category_id"] for each in self.objects}):
            objects = [each for each in self.objects if each["category_id"] == category]
            if mended == "missed":
                objects = [each for each in objects if each["taken"] or each["claimed"]]
            ranked = []
            for box in self.boxes:
                if box["ignored"]:
                    continue
                if mended and box["kind"] == mended:
                    if box["heir"] == category:
                        ranked.append((box["score"], True))
                elif box["category_id"] == category:
                    ranked.append((box["score"], box["right"]))
            if objects or ranked:
                aps.append(average_precision(ranked, len(objects)))
        return float(np.mean(aps)) if aps else None


def average_precision(ranked: list[tuple[float, bool]], objects: int) -> float:
    if not objects:
        return 0.0
    ranked = sorted(ranked, key=lambda each: -each[0])
    points, true = [], 0
    for number, (_, right) in enumerate(ranked, start=1):
        true += right
        points.append((true / objects, true / number))
    return float(
        np.mean([max((p for r, p in points if r >= recall), default=0.0) for recall in np.linspace(0, 1, 101)])
    )


def best_f1(boxes: list[tuple[float, bool]], objects: int) -> tuple[float, float] | None:
    """(F1, score) of the best of all cuts, the highest among equals."""
    cuts = []
    for score, _ in boxes:
        kept = [right for other, right in boxes if other >= score]
        cuts.append((2 * sum(kept) / (len(kept) + objects), score))
    best = max(cuts, default=(0.0, 0.0))
    return best if best[0] else None


def confusion(truth: Item, rows: list[Item], score: float) -> list[list[int]]:
    """Objects of their own class first, then of others; what is left is missed, or on background."""
    order = {category: index for index, category in enumerate(CATEGORIES)}
    cells = [[0] * (len(order) + 1) for _ in range(len(order) + 1)]
    for image in (each["id"] for each in truth["images"]):
        boxes = sorted(
            (row for row in rows if row["image_id"] == image and row["score"] >= score), key=lambda row: -row["score"]
        )
        annotations = [each for each in truth["annotations"] if each["image_id"] == image]
        objects = [each for each in annotations if not each["iscrowd"]]
        for same in (True, False):
            for box in list(boxes):
                fits = [
                    each
                    for each in objects
                    if iou(box["bbox"], each["bbox"]) >= 0.5 and (not same or each["category_id"] == box["category_id"])
                ]
                if fits:
                    found = max(fits, key=lambda each: iou(box["bbox"], each["bbox"]))
                    objects.remove(found)
                    boxes = [each for each in boxes if each is not box]
                    cells[order[found["category_id"]]][order[box["category_id"]]] += 1
        for each in objects:
            cells[order[each["category_id"]]][-1] += 1
        for box in boxes:
            if not any(
                each["iscrowd"]
                and each["category_id"] == box["category_id"]
                and intersection(box["bbox"], each["bbox"]) / (box["bbox"][2] * box["bbox"][3]) >= 0.5
                for each in annotations
            ):
                cells[-1][order[box["category_id"]]] += 1
    return cells
