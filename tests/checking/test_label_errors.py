"""Label errors planted in BCCD, and how many of the most suspicious places a detector finds are among them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import BCCD, run
from torchvision.ops import box_iou

from detr.checking.label_errors import Detected, label_findings
from detr.checking.records import Records
from detr.data.annotations import Annotations

SHARE = 0.01  # of the training boxes, for each kind of error
KINDS = ("missing-object", "wrong-class", "phantom-object", "badly-placed")
STEPS = 800

Planted = list[tuple[str, int, list[float]]]  # kind, image id, box


def plant(root: Path) -> Planted:
    """Copy BCCD to `root` with errors in train; what was planted comes back."""
    shutil.copytree(BCCD / "annotations", root / "annotations")
    (root / "images").symlink_to(BCCD / "images")
    path = root / "annotations" / "train.json"
    content = json.loads(path.read_text())
    drawn = np.random.default_rng(0)
    rows = [row for row in content["annotations"] if min(row["bbox"][2:]) > 20]
    chosen = drawn.permutation(len(rows))[: round(4 * SHARE * len(rows))].tolist()
    planted: Planted = []
    for place, number in enumerate(chosen):
        row, kind = rows[number], KINDS[place % 4]
        x, y, width, height = row["bbox"]
        if kind == "missing-object":
            content["annotations"].remove(row)
        elif kind == "wrong-class":
            row["category_id"] = row["category_id"] % 3 + 1
        elif kind == "badly-placed":
            row["bbox"] = [min(max(x + 0.45 * width, 0), 640 - width), y, width, height]
            if x + 0.45 * width > 640 - width:
                row["bbox"][0] = x - 0.45 * width
        else:
            row = row | {"id": 100_000 + place, "area": 5625, "bbox": empty_place(content, row["image_id"], drawn)}
            content["annotations"].append(row)
        planted.append((kind, row["image_id"], list(row["bbox"])))
    path.write_text(json.dumps(content))
    return planted


def empty_place(content: dict[str, Any], image: int, drawn: np.random.Generator) -> list[float]:
    """A box that touches the objects of an image as little as any of a hundred."""
    others = torch.tensor([row["bbox"] for row in content["annotations"] if row["image_id"] == image]).double()
    others[:, 2:] += others[:, :2]
    places = torch.from_numpy(drawn.uniform(0, (560, 400), (100, 2)))
    boxes = torch.cat([places, places + 75], 1)
    best = int(box_iou(boxes, others).amax(1).argmin())
    return [*places[best].tolist(), 75.0, 75.0]


def test_each_kind_of_error_is_told() -> None:
    """Eight objects in a row, which a detector finds as they are; then each annotation is spoiled in another way."""
    boxes = [[10.0 + 60 * number, 10, 40, 40] for number in range(8)]
    found = Detected(np.array(boxes), np.full(8, 0.9), np.array([1] * 4 + [2] * 4))
    classes = [1, 1, 1, 1, 2, 2, 2, 2]
    assert named(boxes, classes, found) == set()
    assert named(boxes[1:], classes[1:], found) == {("label-missing", None)}
    assert named(boxes, [2, *classes[1:]], found) == {("label-wrong-class", 1)}
    assert named([*boxes, [10.0, 200, 40, 40]], [*classes, 1], found) == {("label-phantom", 9)}
    assert named([[28.0, 10, 40, 40], *boxes[1:]], classes, found) == {("label-misplaced", 1)}


def named(boxes: list[list[float]], classes: list[int], found: Detected) -> set[tuple[str, int | None]]:
    annotations = Annotations.of_boxes(
        files=["a.jpg"],
        sizes=[(300, 600)],
        image_index=[0] * len(boxes),
        boxes=boxes,
        category_ids=classes,
        categories={1: "cat", 2: "dog"},
    )
    findings = label_findings(Records.of("train", annotations), [found])
    return {(finding.check, place.annotation_id) for finding in findings for place in finding.places}


@pytest.mark.slow
def test_most_suspects_were_planted(tmp_path: Path) -> None:
    planted = plant(tmp_path / "data")
    given = [
        "experiment=small_data",
        f"dataset.root={tmp_path / 'data'}",
        f"hydra.run.dir={tmp_path / 'run'}",
        "logger=none",
        f"trainer.max_steps={STEPS}",
        "trainer.evaluate_every=100",
    ]
    trained = run("train.py", *given, timeout=3000)
    assert trained.returncode == 0, trained.stderr
    checkpoint = tmp_path / "run" / "checkpoints" / "last.pt"
    done = run(
        *("-m", "detr", "check", "dataset=custom", f"dataset.root={tmp_path / 'data'}", f"checkpoint={checkpoint}"),
        *("--json", str(tmp_path / "found.json"), f"output={tmp_path / 'report'}"),
        timeout=3000,
    )
    assert done.returncode == 1, done.stderr  # BCCD's two empty boxes
    found = [
        (place["score"], finding["check"], place["image_id"], place["box"])
        for finding in json.loads((tmp_path / "found.json").read_text())["findings"]
        if finding["check"].startswith("label-") and finding["split"] == "train"
        for place in finding["places"]
    ]
    # BCCD itself lacks hundreds of red cells, and these come first: only what else is found can be held against plants.
    others = [each for each in found if each[1] != "label-missing"]
    assert hits(others, planted, first=50) >= 25
    assert hits([each for each in found if each[1] == "label-wrong-class"], planted, first=20) >= 15
    assert (tmp_path / "report" / "labels_0.jpg").exists()


def hits(found: list[Any], planted: Planted, first: int) -> int:
    """How many of the first suspects were planted."""
    surest = sorted(found, reverse=True, key=lambda each: each[0])[:first]
    count = sum(
        any(image == other and overlap(box, its) > 0.2 for _, other, its in planted) for *_, image, box in surest
    )
    print(f"of the first {len(surest)} suspects {count} were planted; {len(planted)} were planted in all")
    return count


def overlap(one: list[float], two: list[float]) -> float:
    """IoU of two xywh boxes."""
    boxes = torch.tensor([one, two])
    boxes[:, 2:] += boxes[:, :2]
    return float(box_iou(boxes[:1], boxes[1:]))
