"""Whether a checkpoint is of the same run as the config."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from detr.config import compose, unresolved
from detr.data.dataset import Fingerprint
from detr.data.shapes.dataset import Shapes, generate
from detr.errors import UserError
from detr.structures import Classes
from detr.training.resuming import check_unchanged
from detr.weights.checkpoint import Recipe

COUNTS = {"train": 6, "val": 2, "test": 2}


def recipe(overrides: list[str] | None = None, **changes: Any) -> Recipe:
    config = unresolved(compose(overrides or []))
    return replace(Recipe(config, Classes(("a", "b"), (1, 2)), Fingerprint(6, 9, "x")), **changes)


@pytest.fixture(scope="module")
def stored() -> Recipe:
    """That of a checkpoint."""
    return recipe()


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer.lr=1e-5"],
        ["trainer.max_epochs=7", "seed=1"],
        ["dataset.root=/elsewhere"],
        ["dataloader.batch_size=3", "loss.normalization=global", "loss.terms.giou.weight=3"],
    ],
)
def test_what_may_change(stored: Recipe, overrides: list[str]) -> None:
    check_unchanged(stored, recipe(overrides), "last.pt")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["transformer.d_model=64"], ["transformer.d_model is 128 in it and 64 here"]),
        (["backbone=resnet18"], ["backbone."]),
        (["position_embedding=learned"], ["position_embedding"]),
        (["dataset.train.annotations=other.json"], ["dataset.train.annotations", "other.json"]),
        (["denoising=dn"], ["denoising"]),
        (["one_to_many=group"], ["one_to_many"]),
        (["loss=detr"], ["loss.classification is sigmoid in it and softmax here"]),
        (["mask_head=fpn"], ["mask_head"]),
    ],
)
def test_what_may_not(stored: Recipe, overrides: list[str], words: list[str]) -> None:
    """Whatever the model is made of, whichever group it comes from."""
    with pytest.raises(UserError) as error:
        check_unchanged(stored, recipe(overrides), "last.pt")
    for word in ["last.pt", "resume_changed=true", *words]:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_other_classes_and_other_images(stored: Recipe) -> None:
    for changes, words in [
        ({"classes": Classes(("a", "c"), (1, 2))}, "2 classes, a, b"),
        ({"data": Fingerprint(7, 9, "y")}, "6 training images with 9 objects, not 7 with 9"),
        ({"data": Fingerprint(6, 9, "y")}, "not these, which are others"),
    ]:
        with pytest.raises(UserError, match=words):
            check_unchanged(stored, replace(stored, **changes), "last.pt")


def test_a_data_set_is_known_wherever_it_lies(tmp_path: Path) -> None:
    described = []
    for name, counts in {"one": COUNTS, "copy": COUNTS, "more": COUNTS | {"train": 7}}.items():
        generate(tmp_path / name, counts)
        files = {
            split: {
                "images": str(tmp_path / name / "images" / split),
                "annotations": str(tmp_path / name / "annotations" / f"{split}.json"),
            }
            for split in COUNTS
        }
        data = Shapes(root=str(tmp_path / name), categories="contiguous", counts=counts, **files)
        described.append(data.split("train", transform=lambda image, target: (image, target)).fingerprint())
    assert described[0] == described[1]
    assert described[0].images == 6
    assert described[0].digest != described[2].digest
