"""RT-DETR's augmentation: squares, whose objects are in sight, with everything that belongs to them."""

from __future__ import annotations

import torch
from PIL import Image
from torchvision import tv_tensors

from detr.data.transforms import RandomOverlapCrop, rt_detr_train


def target(*boxes: tuple[float, ...]) -> dict[str, torch.Tensor]:
    found = tv_tensors.BoundingBoxes(
        torch.tensor(boxes, dtype=torch.float32).view(-1, 4), format="XYXY", canvas_size=(60, 90)
    )
    return {"boxes": found, "labels": torch.arange(len(boxes))}


def test_objects_stay_in_squares() -> None:
    torch.manual_seed(0)
    transform, image = rt_detr_train(64), Image.new("RGB", (90, 60), (200, 30, 30))
    counts = set()
    for _ in range(60):
        changed, after = transform(image, target((5, 5, 30, 40), (50, 10, 88, 58), (40, 1, 44, 6)))
        assert changed.size == (64, 64)
        boxes = after["boxes"].as_subclass(torch.Tensor)
        assert len(boxes) == len(after["labels"]) >= 1
        assert ((boxes >= 0) & (boxes <= 64)).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        counts.add(len(boxes))
    assert counts == {1, 2, 3}


def test_nothing_is_cropped_where_there_is_nothing() -> None:
    """torchvision's would look for a crop with an object for ever."""
    image = Image.new("RGB", (90, 60))
    assert RandomOverlapCrop()(image, target())[0] is image
