"""The detector in Python: what it takes, what it gives, and that it answers as an evaluation does."""

from __future__ import annotations

import functools
import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import BCCD, run_cold
from PIL import Image
from random_checkpoints import BCCD_CLASSES, write_checkpoint
from torchvision.transforms.v2.functional import pil_to_tensor

import detr
from detr import Detector
from detr.data.images import EXIF_ORIENTATION, read_image
from detr.errors import UserError
from detr.evaluation.coco import CocoEvaluator
from detr.evaluation.segments import panoptic_segments
from detr.inference.choice import Choice
from detr.inference.found import Found
from detr.structures import Classes

IMAGES = [str(path) for path in sorted((BCCD / "images").glob("*.jpg"))[:5]]
ALL = {"threshold": 0.0}


@functools.cache
def detector(kind: str = "boxes") -> Any:
    """One for all tests: calls change nothing of it, which a test here checks."""
    with tempfile.TemporaryDirectory() as folder:
        return Detector.load(str(write_checkpoint(Path(folder, "best.pt"), kind)), device="cpu")


def equal(first: Found, second: Found, *, pixels: float = 1e-4, score: float = 1e-6) -> bool:
    return first.names == second.names and bool(
        np.allclose(first.boxes, second.boxes, rtol=0, atol=pixels)
        and np.allclose(first.scores, second.scores, rtol=0, atol=score)
    )


def test_the_package_alone_imports_no_torch() -> None:
    done = run_cold("-c", "import detr, sys; print('torch' in sys.modules, 'Detector' in detr.__all__)")
    assert done.stdout.split() == ["False", "True"], done.stderr
    with pytest.raises(AttributeError):
        detr.detector  # noqa: B018


def test_whatever_an_image_comes_as_it_is_the_same() -> None:
    image = Image.open(IMAGES[0]).convert("RGB")
    pixels = pil_to_tensor(image)
    kinds = [Path(IMAGES[0]), image, np.asarray(image), pixels, pixels.float() / 255, pixels.double() / 255]
    expected = detector()(IMAGES[0], **ALL)
    assert len(expected) == 60  # 20 queries, 3 classes
    assert len(set(expected.scores.tolist())) > 10
    for found in detector()(kinds, batch_size=1, **ALL):
        assert equal(found, expected)
        assert np.array_equal(np.asarray(found.image), np.asarray(image))


@pytest.mark.parametrize("kind", ["orientation", "grey", "16 bit", "alpha"])
def test_files_and_open_images_are_read_as_data_sets_read_them(kind: str, tmp_path: Path) -> None:
    image = Image.effect_noise((60, 40), 90)
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6 if kind == "orientation" else 1
    if kind == "16 bit":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 200)
    elif kind == "alpha":
        image = image.convert("RGBA")
        image.putalpha(Image.effect_noise((60, 40), 90))
    path = tmp_path / "image.png"
    image.save(path, exif=exif)
    expected = np.asarray(read_image(str(path)))
    assert expected.shape == ((60, 40, 3) if kind == "orientation" else (40, 60, 3))
    for given in (path, Image.open(path)):
        assert np.array_equal(np.asarray(detector()(given).image), expected)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.zeros((3, 40, 60), np.uint8), "[height, width, 3] of uint8 in RGB, got [3, 40, 60] of uint8"),
        (np.zeros((40, 60, 3), np.float32), "got [40, 60, 3] of float32"),
        (np.zeros((40, 60, 4), np.uint8), "got [40, 60, 4]"),
        (np.zeros((40, 60), np.uint8), "got [40, 60]"),
        (torch.zeros(40, 60, 3), "expected a tensor [3, height, width] in RGB, got [40, 60, 3]"),
        (torch.zeros(1, 3, 40, 60), "give several as a list"),
        (torch.full((3, 40, 60), 255.0), "floats from 0 to 1, got 255 to 255"),
        (torch.full((3, 40, 60), torch.nan), "floats from 0 to 1"),
        (torch.zeros(3, 40, 60, dtype=torch.int64), "got int64"),
        (7, "expected a path, a Pillow image"),
        ("nowhere.jpg", "nowhere.jpg: no such image file"),
        (__file__, "not a readable image"),
    ],
)
def test_nothing_is_silently_misread(given: Any, words: str) -> None:
    with pytest.raises(UserError) as caught:
        detector()(given)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_answer_each_in_batches_of_any_size() -> None:
    alone = [detector()(each, **ALL) for each in IMAGES]
    assert isinstance(alone[0], Found)
    assert not equal(alone[0], alone[1])
    for size in (1, 2, 5):
        found = detector()(IMAGES, batch_size=size, **ALL)
        assert all(equal(each, other, pixels=0.05, score=1e-4) for each, other in zip(found, alone, strict=True))
    assert detector()([]) == []


def test_only_what_is_wanted() -> None:
    every = detector()(IMAGES[0], **ALL)
    assert (np.diff(every.scores) <= 0).all()
    for threshold in (0.0, float(every.scores[7]), 1.0):
        found = detector()(IMAGES[0], threshold=threshold)
        assert len(found) == (every.scores >= np.float32(threshold)).sum()
    some = detector()(IMAGES[0], classes=["wbc", "Platelets"], top_k=9, **ALL)
    wanted = [row for row, name in enumerate(every.names) if name != "RBC"][:9]
    assert some.names == [every.names[row] for row in wanted]
    assert np.array_equal(some.boxes, every.boxes[wanted])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threshold": 1.5}, "threshold: expected a score from 0 to 1, got 1.5"),
        ({"threshold": float("nan")}, "threshold"),
        ({"top_k": 0}, "top_k: expected at least 1, got 0"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"classes": "platelet"}, "classes: the detector knows no platelet; did you mean Platelets?"),
        ({"classes": ["RBC", "horse"]}, "knows no horse; it knows RBC, WBC, Platelets"),
        ({"tiles": 3}, "tiles: expected a side of at least 16 pixels, got 3"),
        ({"tiles": 64, "overlap": 1.0}, "overlap: expected a part of the tile from 0 to 0.9, got 1"),
        ({"tiles": 64, "attention": "last"}, "tiles and attention"),
        ({"attention_point": (3, 3)}, "attention_point"),
        ({"attention": "last", "attention_point": (3, 3000)}, "attention_point: expected x,y within the image"),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        detector()(IMAGES[0], **options)
    assert words in str(caught.value)


def test_holes_of_an_identity_map_are_never_found() -> None:
    classes = Classes.identity({1: "cat", 3: "dog"})
    choice = Choice.of(classes)
    assert choice.labels == {1, 3}
    with pytest.raises(UserError, match="knows no N/A"):
        Choice.of(classes, classes=Classes.HOLE)


def test_threads_do_not_disturb_each_other() -> None:
    """Nor do they leave a trace: not in the model, nor in torch's random numbers."""
    before = {name: tensor.clone() for name, tensor in detector().model.state_dict().items()}
    random = torch.get_rng_state()
    expected = [detector()(each, attention="last", **ALL) for each in IMAGES]
    with ThreadPoolExecutor(4) as pool:
        options = [{"attention": "last"} if index % 2 else {"batch_size": 1} for index in range(10)]
        found = list(pool.map(lambda index: detector()(IMAGES[index % 5], **options[index], **ALL), range(10)))
    for index, each in enumerate(found):
        assert equal(each, expected[index % 5])
        if index % 2:
            assert np.array_equal(each.attention.queries.points, expected[index % 5].attention.queries.points)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(before[name], tensor) for name, tensor in detector().model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in detector().model.modules())


def test_a_moving_average_is_what_is_used(tmp_path: Path) -> None:
    averaged = Detector.load(str(write_checkpoint(tmp_path / "ema.pt", ema=True)), device="cpu")
    assert equal(averaged(IMAGES[0], **ALL), detector()(IMAGES[0], **ALL))


def test_results_in_the_formats_of_others() -> None:
    found = detector()(IMAGES[0], top_k=7, **ALL)
    results = found.to_coco(image_id=7)
    assert json.loads(json.dumps(results)) == results
    assert [each["category_id"] for each in results] == found.category_ids
    assert {each["image_id"] for each in results} == {7}
    for result, box, score in zip(results, found.boxes.tolist(), found.scores.tolist(), strict=True):
        left, top, width, height = result["bbox"]
        assert [left, top, left + width, top + height] == box
        assert result["score"] == score
    picture = found.draw()
    assert picture.size == found.image.size
    assert not np.array_equal(np.asarray(picture), np.asarray(found.image))


def test_results_for_supervision() -> None:
    pytest.importorskip("supervision")
    found = detector()(IMAGES[0], top_k=7, **ALL)
    theirs = found.to_supervision()
    assert np.array_equal(theirs.xyxy, found.boxes)
    assert theirs.data["class_name"].tolist() == found.names
    assert len(detector()(IMAGES[0], threshold=1.0).to_supervision()) == 0


def test_masks_and_segments_are_those_of_an_evaluation() -> None:
    images = [np.asarray(Image.effect_noise(size, 90).convert("RGB")) for size in ((90, 70), (64, 96))]
    ours = detector("panoptic")
    found = ours(images, **ALL)
    batch = ours.prepared([each.image for each in found])
    with torch.inference_mode():
        predictions = ours.model(batch.images, batch.padding)
    truth = {"images": [], "annotations": [], "categories": [{"id": i, "name": str(i)} for i in (1, 2, 3)]}
    evaluator = CocoEvaluator(backend="pycocotools", ground_truth=truth, classes=BCCD_CLASSES, masks=True)
    expected = evaluator.find(predictions, batch, "sigmoid")
    segments = panoptic_segments(
        predictions, batch, classification="sigmoid", things=torch.ones(3, dtype=torch.bool), min_score=0.2
    )
    for index, each in enumerate(found):
        detections = expected.detections[index]
        assert np.array_equal(each.boxes, detections.boxes.numpy())
        assert np.array_equal(each.masks, detections.masks.numpy())
        assert 0 < each.masks.mean() < 1
        assert torch.equal(each.segments.ids, segments[index].ids)
        assert each.to_coco(1)[3]["segmentation"] == expected.found[index].rles[3]
        assert each.draw().size[0] >= each.image.width
    few = ours(images[0], top_k=3, batch_size=1, **ALL)
    assert few.masks.shape == (3, 70, 90)


@pytest.mark.parametrize("kind", ["missing", "cut off", "device"])
def test_weights_that_cannot_be_loaded_are_refused(kind: str, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "best.pt")
    if kind == "cut off":
        path.write_bytes(path.read_bytes()[:-1000])
    source = str(tmp_path / "other.pt") if kind == "missing" else str(path)
    words = {"missing": "no checkpoint at", "cut off": "truncated", "device": "device=cudda is not a known device"}
    with pytest.raises(UserError, match=words[kind]):
        Detector.load(source, device="cudda" if kind == "device" else "cpu")
