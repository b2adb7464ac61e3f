"""A training without a single object to learn from is refused before anything is built, in every format."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import TINY, only_error, run
from PIL import Image
from torchrun import own_errors, torchrun

from detr.assembly import training_data
from detr.config import check, compose
from detr.data.shapes.dataset import generate
from detr.errors import UserError

WORDS = ["trainer.device=cpu", "dataset.root=data", "dataset.val=null", "dataloader.batch_size=1"]
BOX = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 3, 10, 12], "area": 120, "iscrowd": 0}


def pictures(folder: Path, count: int = 2) -> None:
    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        Image.fromarray(np.zeros((32, 48, 3), dtype=np.uint8)).save(folder / f"{number}.png")


def coco(*annotations: dict[str, Any]) -> list[str]:
    pictures(Path("data/images"))
    images = [{"id": n, "file_name": f"{n}.png", "width": 48, "height": 32} for n in (1, 2)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    Path("data/annotations").mkdir()
    Path("data/annotations/train.json").write_text(json.dumps(content))
    return ["dataset=custom"]


def yolo(text: str) -> list[str]:
    pictures(Path("data/images/train"))
    Path("data/labels/train").mkdir(parents=True)
    for number in (1, 2):
        Path(f"data/labels/train/{number}.txt").write_text(text)
    Path("data/classes.txt").write_text("cat\n")
    return ["dataset=yolo"]


def voc(objects: str) -> list[str]:
    pictures(Path("data/train"))
    size = "<size><width>48</width><height>32</height></size>"
    for number in (1, 2):
        Path(f"data/train/{number}.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    return ["dataset=voc", "dataset.names=[cat]"]


def panoptic() -> list[str]:
    pictures(Path("data/train2017"))
    pictures(Path("data/annotations/panoptic_train2017"))
    names = [f"{n}.png" for n in (1, 2)]
    content = {
        "images": [{"id": n, "file_name": name, "width": 48, "height": 32} for n, name in enumerate(names)],
        "annotations": [{"image_id": n, "file_name": name, "segments_info": []} for n, name in enumerate(names)],
        "categories": [{"id": 1, "name": "cat", "isthing": 1}],
    }
    Path("data/annotations/panoptic_train2017.json").write_text(json.dumps(content))
    return ["dataset=coco_panoptic"]


DIFFICULT = (
    "<object><name>cat</name><difficult>1</difficult>"
    "<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
)
CROWDS = "all 2 annotations are crowds"
CASES: dict[str, tuple[Callable[[], list[str]], str]] = {
    "no annotation": (coco, "none of 2 training images has an object to learn from;"),
    "crowds": (lambda: coco(BOX | {"iscrowd": 1}, BOX | {"id": 2, "iscrowd": True}), CROWDS),
    "without area": (lambda: coco(BOX | {"bbox": [2, 3, 0, 12]}), "has an object to learn from;"),
    "outside": (lambda: coco(BOX | {"bbox": [60, 3, 10, 12]}), "has an object to learn from;"),
    "all held out": (lambda: [*coco(BOX), "dataset.holdout=[images/1.png]"], "none of 1 training images has"),
    "overfit": (
        lambda: [*coco(BOX | {"image_id": 2}), "trainer.overfit_batches=1"],
        "none of 1 training images that trainer.overfit_batches takes, the first ones, has an object",
    ),
    "empty text files": (lambda: yolo("\n"), "none of 2 training images has an object to learn from;"),
    "lines without area": (lambda: yolo("0 0.5 0.5 0 0.5\n"), "has an object to learn from;"),
    "no objects in XML": (lambda: voc(""), "none of 2 training images has an object to learn from;"),
    "difficult": (lambda: voc(DIFFICULT), CROWDS),
    "no segments": (panoptic, "none of 2 training images has an object to learn from;"),
}


@pytest.mark.parametrize(("write", "words"), CASES.values(), ids=CASES)
def test_it_is_an_error(
    write: Callable[[], list[str]], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    values, _ = check(compose([*WORDS, *write()]))
    with pytest.raises(UserError) as error:
        training_data(values, values["trainer"]["overfit_batches"])
    assert words in str(error.value)
    assert "\n" not in str(error.value)


class Empty:
    """Images of somebody's own kind, which only know how many objects they have."""

    objects_per_image = np.zeros(3, dtype=np.int64)
    classes = files = image_ids = annotated = None

    def __len__(self) -> int:
        return 3

    def _none(self, *_: Any) -> Any: ...

    __getitem__ = ground_truth = fingerprint = subset = _none


def test_own_data_sets_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detr.assembly.split_of", lambda *_, **__: Empty())
    values, _ = check(compose(WORDS))
    with pytest.raises(UserError, match="none of 3 training images has an object"):
        training_data(values, None, data=Empty())  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def crowds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded data set, where every object is a crowd."""
    root = tmp_path_factory.mktemp("crowds") / "data"
    generate(root, {"train": 8, "val": 4})
    file = root / "annotations" / "train.json"
    content = json.loads(file.read_text())
    for each in content["annotations"]:
        each["iscrowd"] = 1
    file.write_text(json.dumps(content))
    return root


def words_of(root: Path) -> list[str]:
    files = [
        f"dataset.{name}.{key}={root}/{key}/{name}{end}"
        for name in ("train", "val")
        for key, end in (("images", ""), ("annotations", ".json"))
    ]
    return [*(word for word in TINY if "counts" not in word), "dataset=custom", f"dataset.root={root}", *files]


def test_a_training_ends_before_it_begins(crowds: Path, tmp_path: Path) -> None:
    line = only_error(run("train.py", *words_of(crowds), f"hydra.run.dir={tmp_path}/run"))
    assert "none of 8 training images has an object to learn from: all" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_processes_end_with_one_line(crowds: Path, tmp_path: Path) -> None:
    done = torchrun("train.py", *words_of(crowds), f"hydra.run.dir={tmp_path}/run")
    assert done.returncode
    (line,) = own_errors(done)
    assert "none of 8 training images has an object to learn from" in line


def test_the_start_tells_the_objects(tmp_path: Path) -> None:
    words = ["trainer.max_steps=1", "trainer.evaluate_every=9", f"dataset.root={tmp_path}/data"]
    done = run("train.py", *TINY, *words, f"hydra.run.dir={tmp_path}/run")
    assert done.returncode == 0, done.stderr
    data = json.loads((tmp_path / "run" / "run.json").read_text())["data"]
    for name, purpose in {"train": "training", "val": "validation"}.items():
        assert f"{data[name]['images']} images with {data[name]['objects']} objects for {purpose}" in done.stdout
