"""`detr show`: the batch that a training would begin with, and where in the picture its boxes and padding are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from command import TINY, only_error, run
from PIL import Image

from detr.data.loader import collate
from detr.data.order import EpochSampler
from detr.drawing.batches import STRIPES, TRUE, batch_sheet, denoising_panels, objects_panel, padded_picture
from detr.drawing.boxes import class_color
from detr.models.box_coder import LogitBoxCoder
from detr.models.denoising import ContrastiveDenoising
from detr.structures import Batch, Classes, Sample

CLASSES = Classes.contiguous({1: "cat", 2: "dog"})


def batch() -> Batch:
    """A grey image with an object in its left half, and a wider one without any."""
    samples = [
        Sample(
            image=torch.full((3, 400, width), 127, dtype=torch.uint8),
            labels=torch.tensor(labels, dtype=torch.int64),
            boxes=torch.tensor([[0.25, 0.5, 0.3, 0.6]] * len(labels)).reshape(-1, 4),
            image_id=width,
            original_size=(400, width),
            file=f"images/{width}.png",
        )
        for width, labels in ((400, [1]), (600, []))
    ]
    return collate(samples)


def test_padding_is_hatched_and_boxes_are_of_the_image_without_it() -> None:
    pixels = np.asarray(padded_picture(batch(), 0))
    assert pixels.shape == (400, 600, 3)
    assert (pixels[:, :400] == 127).all()
    assert {tuple(each) for each in pixels[:, 400:].reshape(-1, 3).tolist()} == set(STRIPES)
    drawn, caption = objects_panel(batch(), 0, CLASSES)
    assert caption == "400.png, 400 × 400"
    frame = np.argwhere((np.asarray(drawn) == class_color(1)).all(axis=2))  # with the label, above the box
    assert frame[:, 1].min() == pytest.approx(40, abs=2)
    assert frame[:, 1].max() == pytest.approx(160, abs=2)
    assert frame[:, 0].max() == pytest.approx(320, abs=2)
    assert (np.asarray(padded_picture(batch(), 1)) == 127).all()


def test_noisy_boxes_lie_where_the_noise_has_put_them() -> None:
    denoising = ContrastiveDenoising(
        num_classes=2, box_coder=LogitBoxCoder(), d_model=8, num_queries=4, label_noise=0, box_noise=0
    )
    noised = denoising.noised(batch().targets)
    assert (noised.groups, noised.size) == (4, 2)
    positive, negative = (panel for panel, _ in denoising_panels(batch(), 0, CLASSES, noised))
    pixels = np.asarray(positive)
    assert not (pixels == TRUE).all(axis=2).any()  # without noise they cover the object
    assert (pixels == class_color(2)).all(axis=2).sum() > 500  # of the third group, on top
    assert not (pixels == class_color(3)).all(axis=2).any()
    assert (np.asarray(negative) != pixels).any()
    panels = list(denoising_panels(batch(), 1, CLASSES, noised))
    assert all((np.asarray(panel) == 127).all() for panel, _ in panels)
    sheet = batch_sheet(batch(), CLASSES, noised=noised, copies=(6, 20))
    assert sheet.width > 4 * 600


def test_it_shows_what_the_training_begins_with(tmp_path: Path) -> None:
    words = ["transformer=deformable", "queries=dab", "denoising=contrastive", "one_to_many=hybrid"]
    given = [*TINY, *words, "backbone.weights=null", "dataloader.batch_size=3", "dataset.root=shapes"]
    done = run("-m", "detr", "show", *given, "output=a b.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    *lines, last = [line for line in done.stdout.splitlines() if "generating" not in line]
    first = next(iter(EpochSampler(40, 3, seed=42)))
    assert [Path(line.partition(":")[0]).stem for line in lines] == [f"{index:06d}" for _, index in first]
    assert all("128 × 128, here 128 × 128, padded to 128 × 128; " in line for line in lines)
    assert last == "picture  a b.png"
    assert Image.open(tmp_path / "a b.png").width > 4 * 400
    assert {path.name for path in tmp_path.iterdir()} == {"a b.png", "shapes"}
    done = run("-m", "detr", "show", *given, "split=val", "paths.output_root=out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (picture,) = tmp_path.glob("out/show/*/batch.jpg")
    assert f"picture  {picture.relative_to(tmp_path)}" in done.stdout
    assert Image.open(picture).width < 600


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["output=a.pdf"], "output=a.pdf: expected a picture's name"),
        (["split=vall"], "split: expected 'train', 'val' or 'test', got 'vall'"),
        (["outptu=a.png"], "did you mean output"),
        (["dataset=custom", "dataset.root=nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_answered_in_one_line(tmp_path: Path, words: list[str], said: str) -> None:
    assert said in only_error(run("-m", "detr", "show", *words, cwd=tmp_path))
    assert list(tmp_path.iterdir()) == []
