"""RF-DETR against its authors' package, which is installed beside this environment, with random weights.

It is what comes nearest to a published file where there is no network but a package index: the package writes the file,
we read it, and both look at the same images; then the other way round.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detr.exporting.hugging_face import export_folder
from detr.exporting.source import find
from detr.inference.detector import Detector
from detr.losses.mask_costs import mask_costs
from detr.losses.mask_points import PointCrossEntropy, PointDice
from detr.losses.matched import Matched
from detr.structures import MASK_QUERIES, Classes, Matches, Normalizer, Predictions, Targets
from detr.weights.sources import load

pytestmark = pytest.mark.slow

# What torch, torchvision and transformers do not bring: the package itself, and what it imports.
PACKAGES = ("rfdetr>=1.11,<2", "supervision", "pyDeprecate<0.10", "defusedxml", "opencv-python-headless")
DETECTORS = {"RFDETRNano": "rf_detr_nano", "RFDETRSmall": "rf_detr_small", "RFDETRSegNano": "rf_detr_seg_nano"}
SIZES = {"RFDETRNano": 384, "RFDETRSmall": 512, "RFDETRSegNano": 312}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that can import the package."""
    place = tmp_path_factory.mktemp("package")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(place), *PACKAGES]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"rfdetr could not be installed from the package index: {done.stderr.strip().splitlines()[-1]}")
    return os.environ | {"PYTHONPATH": str(place), "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}


def reference(package: dict[str, str], *words: str) -> None:
    script = Path(__file__).with_name("rfdetr_reference.py")
    done = subprocess.run(
        [sys.executable, str(script), *words], env=package, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def folder(package: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The authors' files, and what they answer about the images beside them.

    Of the larger picture a square is made by taking the middle of every 2 × 3 equal pixels, so that nothing is rounded.
    It is noise, so that no proposals are so alike that rounding would change their order.
    """
    place, draw = tmp_path_factory.mktemp("theirs"), np.random.default_rng(0)
    for size in SIZES.values():
        torch.save(torch.from_numpy(draw.standard_normal((2, 3, size, size)).astype(np.float32)), place / f"{size}.pt")
        square = draw.integers(0, 256, (size, size, 3), np.uint8)
        Image.fromarray(square.repeat(2, axis=0).repeat(3, axis=1)).save(place / f"{size}.png")
    reference(package, "write", str(place), *DETECTORS)
    return place


def theirs(folder: Path, name: str, verb: str = "write") -> dict[str, Any]:
    said: dict[str, Any] = torch.load(folder / name / f"{verb}.pt")
    return said


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other.to(one), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", DETECTORS)
def test_their_file_answers_as_theirs(name: str, folder: Path) -> None:
    """The file says which detector it is of; logits, boxes and masks of queries, and what the proposals say."""
    path = str(folder / name / "weights.pt")
    assert load(path).detectors == (DETECTORS[name],)
    model, size = Detector.load(path, device="cpu").model.double(), SIZES[name]
    images = torch.load(folder / f"{size}.pt").double() * model.backbone.std + model.backbone.mean
    with torch.inference_mode():
        said = model(images, torch.zeros(2, size, size, dtype=torch.bool))
    expected = theirs(folder, name)
    assert expected["outputs"]["pred_logits"].std(1).mean() > 0.5  # queries differ
    close(said.logits[-1], expected["outputs"]["pred_logits"])
    close(said.boxes[-1], expected["outputs"]["pred_boxes"])
    close(said.groups["encoder"].outputs.logits[0], expected["encoder"]["pred_logits"])
    close(said.groups["encoder"].outputs.boxes[0], expected["encoder"]["pred_boxes"])
    assert (said.masks is None) == ("pred_masks" not in expected["outputs"])
    if said.masks is not None:
        queries = torch.arange(said.logits.shape[2])
        with torch.inference_mode():
            masks = torch.stack([said.masks(torch.full_like(queries, image), queries) for image in range(2)])
        close(masks, expected["outputs"]["pred_masks"])


@pytest.mark.parametrize("name", DETECTORS)
def test_from_a_picture_to_detections(name: str, folder: Path) -> None:
    """As `predict`: size, normalisation, scores, boxes in pixels, masks; of ids without a class we say none."""
    detector = Detector.load(
        str(folder / name / "weights.pt"), device="cpu", overrides=["augmentation.antialias=false"]
    )
    detector.model.double()
    found = detector(folder / f"{SIZES[name]}.png", threshold=0.0)
    expected = theirs(folder, name)["found"]
    known = torch.tensor([detector.classes.names[label] != Classes.HOLE for label in expected["labels"].tolist()])
    expected = {key: None if value is None else value[known] for key, value in expected.items()}
    assert len(found.scores) == len(expected["scores"]) > 50
    close(torch.as_tensor(found.scores), expected["scores"])
    assert torch.equal(torch.as_tensor(found.labels), expected["labels"])
    size = SIZES[name]
    inside = torch.as_tensor(found.boxes).clamp(min=0).minimum(torch.tensor([3.0, 2.0, 3.0, 2.0]) * size)
    torch.testing.assert_close(inside, expected["boxes"].float(), rtol=0, atol=1e-2)  # pixels; theirs are cut
    if expected["masks"] is None:
        assert found.masks is None
        return
    differing = (torch.as_tensor(found.masks) != expected["masks"]).float().mean((1, 2))
    assert differing.max() < 1e-4, differing


@pytest.mark.parametrize("name", DETECTORS)
def test_and_back(name: str, package: dict[str, str], folder: Path, tmp_path: Path) -> None:
    """What `detr export format=hugging_face` writes has the authors' names: their network answers alike."""
    export_folder(find(str(folder / name / "weights.pt"), []), tmp_path / name)
    size = SIZES[name]
    for each in (f"{size}.pt", f"{size}.png"):
        (tmp_path / each).symlink_to(folder / each)
    reference(package, "answer", str(tmp_path), name)
    for key, value in theirs(folder, name)["outputs"].items():
        close(theirs(tmp_path, name, "answer")["outputs"][key], value)


def test_losses_and_costs_of_masks(package: dict[str, str], tmp_path: Path) -> None:
    """Of two images and 5 objects, with pairs of two groups, from the same random numbers."""
    draw = torch.Generator().manual_seed(0)
    pixels, queries = (torch.randn(2, *shape, generator=draw) for shape in ((8, 24, 20), (6, 9)))
    masks = torch.rand(5, 96, 80, generator=draw) < 0.4
    pairs = {"image": [0, 0, 0, 1, 1], "query": [4, 0, 2, 5, 1], "target": [1, 0, 2, 1, 0]}
    given = {
        "pixels": pixels,
        "queries": queries[..., :-1],
        "bias": queries[0, 0, -1:],
        "masks": masks,
        "counts": [3, 2],
    }
    torch.save({**given, **pairs}, tmp_path / "given.pt")
    reference(package, "masks", str(tmp_path))
    expected = torch.load(tmp_path / "masks.pt")

    asked = torch.cat([queries[..., :-1], given["bias"].expand(2, 6, 1)], -1)[None]
    said = Predictions(torch.zeros(1, 2, 6, 3), torch.rand(1, 2, 6, 4), {MASK_QUERIES: asked}, pixels=[pixels])
    labels, boxes = torch.zeros(5, dtype=torch.int64), torch.rand(5, 4)
    targets = Targets.of(labels.split([3, 2]), boxes.split([3, 2]), list(masks.split([3, 2])))
    image, query, target = (torch.tensor(each) for each in pairs.values())
    matches = Matches(torch.zeros_like(image), image, query, target + 3 * image, 1)
    seen = Matched(said, targets, matches, Normalizer(objects=5, images=2), {})
    torch.manual_seed(1)
    assert PointCrossEntropy()(seen).item() == pytest.approx(expected["loss_mask_ce"], rel=1e-5)
    assert PointDice()(seen).item() == pytest.approx(expected["loss_mask_dice"], rel=1e-5)
    torch.manual_seed(2)
    for mine, theirs_, name in zip(mask_costs(said, targets), expected["costs"], ("entropy", "dice"), strict=True):
        for index, objects in enumerate(([0, 1, 2], [3, 4])):  # theirs are of every image with every object
            close(mine[0, index, :, : len(objects)], theirs_.view(2, 6, 5)[index][:, objects])
        assert mine.std() > 1e-3, name
