"""Whether a checkpoint is of the same run as the config."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from detr.config import compose, unresolved
from detr.data.shapes.dataset import Shapes, generate
from detr.errors import UserError
from detr.training.resuming import check_unchanged, describe_data

COUNTS = {"train": 6, "val": 2, "test": 2}


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    """The config of a checkpoint."""
    return unresolved(compose([]))


def facts(config: dict[str, Any], **changes: Any) -> dict[str, Any]:
    same = {
        "classes": {"names": ["a", "b"], "category_ids": [1, 2]},
        "data": {"images": 6, "objects": 9, "digest": "x"},
    }
    return {"config": config, **same, **changes}


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer.lr=1e-5"],
        ["trainer.max_epochs=7", "seed=1"],
        ["dataset.root=/elsewhere"],
        ["dataloader.batch_size=3", "loss.normalization=global"],
    ],
)
def test_what_may_change(stored: dict[str, Any], overrides: list[str]) -> None:
    check_unchanged(facts(stored), facts(unresolved(compose(overrides))), "last.pt")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["transformer.d_model=64"], ["transformer.d_model is 128 in it and 64 here"]),
        (["backbone=resnet18"], ["backbone."]),
        (["position_embedding=learned"], ["position_embedding"]),
        (["dataset.train.annotations=other.json"], ["dataset.train.annotations", "other.json"]),
    ],
)
def test_what_may_not(stored: dict[str, Any], overrides: list[str], words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        check_unchanged(facts(stored), facts(unresolved(compose(overrides))), "last.pt")
    for word in ["last.pt", "resume_changed=true", *words]:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_other_classes_and_other_images(stored: dict[str, Any]) -> None:
    for changes, words in [
        ({"classes": {"names": ["a", "c"], "category_ids": [1, 2]}}, "2 classes, a, b"),
        ({"data": {"images": 7, "objects": 9, "digest": "y"}}, "6 training images with 9 objects, not 7 with 9"),
        ({"data": {"images": 6, "objects": 9, "digest": "y"}}, "other names"),
    ]:
        with pytest.raises(UserError, match=words):
            check_unchanged(facts(stored), facts(copy.deepcopy(stored), **changes), "last.pt")


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
        described.append(describe_data(data.split("train", transform=lambda image, target: (image, target))))
    assert described[0] == described[1]
    assert described[0]["images"] == 6
    assert described[0]["digest"] != described[2]["digest"]
