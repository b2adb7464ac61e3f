"""docs/extending.md as it stands there: its files in a folder of their own, its commands run in that folder."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import ROOT, only_error, run
from extending import COMMANDS, COUNTED, COUNTS, DOCUMENT, FILES, SMALL, composed, importable, write_data, write_files
from PIL import Image
from torchvision.ops import box_convert

from detr.config import build
from detr.data.dataset import AnnotatedImages, Split, Target
from detr.errors import UserError
from detr.evaluation.coco import CocoEvaluator
from detr.structures import Detections
from detr.tracking.rows import read_rows

SHORT = [*SMALL, "trainer.max_steps=2", "trainer.log_every=1"]


@dataclasses.dataclass
class Done:
    """What became of a command."""

    words: list[str]
    process: subprocess.CompletedProcess[str]
    folder: Path  # of its run, if it had one

    def row(self) -> dict[str, Any]:
        (row,) = read_rows(self.folder / "metrics.jsonl")
        return row


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("mine")
    write_files(home)
    write_data(home)
    with importable(home):
        yield home


@pytest.fixture(scope="module")
def done(folder: Path) -> list[Done]:
    """Every command of the document, one after the other, each run small."""
    found: list[Done] = []
    (folder / "runs").mkdir()
    for number, (program, *words) in enumerate(COMMANDS):
        assert program == "python"
        place = folder / "runs" / str(number)
        further: list[str] = []
        if "pytest" in words:
            further = ["--basetemp", str(place)]
        elif "train" in words and "--cfg" not in words:
            counts = [] if "dataset=lines" in words else [COUNTED]
            few = ["logger=none", "seed=0"] if "-cn" in words else []
            further = [*SHORT, *counts, *few, f"hydra.run.dir={place}", f"hydra.sweep.dir={place}"]
        elif "evaluate" in words:
            words = [word.replace("outputs/train/DATE", str(found[-1].folder)) for word in words]
            further = [f"hydra.run.dir={place}"]
        found.append(Done(words, run(*words, *further, cwd=folder), place))
    return found


def command(done: Sequence[Done], *words: str) -> Done:
    """The first that has these words and runs something once."""
    return next(each for each in done if {*words} <= {*each.words} and not {"--cfg", "-cn"} & {*each.words})


def test_the_table_has_every_kind_of_part_and_leads_to_it() -> None:
    rows = re.findall(r"^\| \[([\w ]+)\]\(#([\w-]+)\) \| (\S+) \|", DOCUMENT, re.MULTILINE)
    headings = [
        re.sub(r"[^\w -]", "", each).replace(" ", "-").lower() for each in re.findall("^## (.*)", DOCUMENT, re.M)
    ]
    assert [link for _, link, _ in rows] == headings[:-1]
    configs = {str(Path(name).parent.relative_to("conf")) + "/" for name in FILES if name.startswith("conf/")}
    assert configs == {folder.strip("`").replace("itself", "./") for _, _, folder in rows}


def test_the_code_is_as_the_projects(folder: Path) -> None:
    for words in (["check"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *words, "--config", ROOT / "pyproject.toml", "--no-cache"]
        checked = subprocess.run(
            [*ruff, folder / "mylab", folder / "tests"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stdout


@pytest.mark.slow
def test_every_command_succeeds(done: list[Done]) -> None:
    assert len(done) == 6
    assert [(each.words, each.process.stderr) for each in done if each.process.returncode] == []


@pytest.mark.slow
def test_the_readers_tests_pass(done: list[Done]) -> None:
    assert "1 passed" in command(done, "pytest", "tests").process.stdout


@pytest.mark.slow
def test_all_parts_train_together(done: list[Done]) -> None:
    trained = command(done, "train", "experiment=ours")
    row = trained.row()
    terms = [f"train/{name}{layer}" for name in ("class", "bbox", "giou", "box_nll") for layer in ("", "/layer0")]
    assert all(math.isfinite(row[name]) for name in terms)
    assert row["train/loss"] == pytest.approx(sum(row[name] for name in terms), rel=1e-5)
    assert {"val/AP", "val/counted", "val/loss"} <= row.keys()
    targets = re.findall(r"_target_: (mylab\.\S+)", (trained.folder / ".hydra" / "config.yaml").read_text())
    assert {*targets} == {
        target for file in FILES.values() for target in re.findall(r"_target_: (mylab\.\S+)", file)
    } - {"mylab.lines.CsvSplits"}


@pytest.mark.slow
def test_the_logger_writes_what_the_row_is_the_mean_of(done: list[Done]) -> None:
    trained = command(done, "train", "experiment=ours")
    head, *steps = (line.split(",") for line in (trained.folder / "steps.csv").read_text().splitlines())
    assert head == ["step", "train/loss", "train/bbox", "train/lr"]
    assert [int(step) for step, *_ in steps] == [1, 2]
    for column, name in enumerate(head[1:3], start=1):
        assert sum(float(each[column]) for each in steps) / 2 == pytest.approx(trained.row()[name], rel=1e-5)


@pytest.mark.slow
def test_what_is_kept_of_a_run_is_whole(done: list[Done]) -> None:
    """What own parts learn or keep is in the checkpoint, and the waves of positions are those of this run."""
    trained = command(done, "train", "experiment=ours")
    checkpoint = torch.load(trained.folder / "checkpoints" / "last.pt", weights_only=True)
    names = checkpoint["model"]
    assert {"backbone.body.0.0.weight", "queries.anchors", "decoder.scale_head.weight"} <= names.keys()
    assert any(name.endswith("position_embedding.waves") for name in names)


@pytest.mark.slow
def test_the_sweep_tries_both_decoders(done: list[Done]) -> None:
    (sweep,) = (each for each in done if "decoders" in each.words)
    rows = [read_rows(sweep.folder / str(job) / "metrics.jsonl")[-1] for job in range(2)]
    assert ["train/box_nll" in row for row in rows] == [False, True]


@pytest.mark.parametrize(
    ("word", "hint"),
    [("trainer.max_step=3", "did you mean trainer.max_steps?"), ("backbone=plian", "did you mean plain?")],
)
def test_a_typo_beside_ones_own_configs_is_answered(folder: Path, word: str, hint: str) -> None:
    assert hint in only_error(run("-m", "detr", "train", "-cd", "conf", word, cwd=folder))


def test_a_module_that_is_not_found_is_told(folder: Path, tmp_path: Path) -> None:
    line = only_error(run("-m", "detr", "train", "-cd", str(folder / "conf"), "backbone=plain", cwd=tmp_path))
    assert "backbone._target_: there is no module mylab; install it, or add its folder to PYTHONPATH" in line


@pytest.fixture(scope="module")
def splits(folder: Path) -> dict[Split, list[AnnotatedImages]]:
    """The same images from the COCO file and from the lines."""
    shapes = ["dataset=shapes", f"dataset.root={folder / 'data' / 'shapes'}", COUNTED]
    nodes = [composed(folder, *words)["dataset"] for words in (shapes, lines_of(folder))]
    return {name: [build(node).split(name, transform=as_it_is) for node in nodes] for name in COUNTS}


def as_it_is(image: Image.Image, target: Target) -> tuple[Image.Image, Target]:
    """No augmentation."""
    return image, target


def lines_of(folder: Path) -> list[str]:
    """The data set of the document, wherever one is."""
    return ["dataset=lines", f"dataset.root={folder / 'data' / 'lines'}"]


def test_lines_are_the_same_boxes_as_coco(splits: dict[Split, list[AnnotatedImages]]) -> None:
    for coco, lines in splits.values():
        assert lines.classes == coco.classes
        assert [Path(file).name for file in lines.files] == [Path(file).name for file in coco.files]
        assert lines.objects_per_image.tolist() == coco.objects_per_image.tolist()
        assert 0 in coco.objects_per_image
        for index in range(len(coco)):
            ours, theirs = lines[index], coco[index]
            order, other = (torch.from_numpy(np.lexsort(each.boxes.numpy().T)) for each in (ours, theirs))
            assert torch.equal(ours.boxes[order], theirs.boxes[other])
            assert torch.equal(ours.labels[order], theirs.labels[other])
            assert torch.equal(ours.image, theirs.image)


def test_lines_are_evaluated_as_coco(splits: dict[Split, list[AnnotatedImages]]) -> None:
    """Boxes that are somewhat off have the same precision, whichever ground truth they are held against."""
    found = []
    for data in splits["val"]:
        evaluator = CocoEvaluator(backend="hotcoco", ground_truth=data.ground_truth(), classes=data.classes)
        generator = torch.Generator().manual_seed(0)
        for sample in (data[index] for index in range(len(data))):
            boxes = 128 * box_convert(sample.boxes, "cxcywh", "xyxy")
            order = np.lexsort(boxes.numpy().T)
            detected = boxes[order] + 3 * torch.randn(boxes.shape, generator=generator)
            scores = torch.rand(len(boxes), generator=generator)
            evaluator.update([sample.image_id], [Detections(scores, sample.labels[order], detected)])
        found.append(evaluator.compute().named())
    whatever_the_area = ["AP", "AP50", "AP75", "AR1", "AR10", "AR100"]  # COCO's areas are those of masks
    assert [found[0][name] for name in whatever_the_area] == [found[1][name] for name in whatever_the_area]
    assert 0.2 < found[0]["AP"] < 0.9


@pytest.mark.slow
def test_the_checkpoint_evaluates_to_the_rows_numbers(done: list[Done]) -> None:
    trained, evaluated = command(done, "train", "experiment=ours"), command(done, "evaluate")
    metrics = json.loads((evaluated.folder / "metrics.json").read_text())
    per_class = metrics.pop("per_class")
    row = trained.row()
    assert "counted" in metrics
    assert metrics == {name: row[f"val/{name}"] for name in metrics}
    assert per_class == {name: row[f"val/AP/{name}"] for name in per_class}
    first, second = (json.loads((each.folder / "predictions.json").read_text()) for each in (trained, evaluated))
    assert first == second
    assert {each["category_id"] for each in first} <= {1, 2, 3, 4, 5}


def test_lines_have_a_fingerprint_wherever_they_lie(
    folder: Path, tmp_path: Path, splits: dict[Split, list[AnnotatedImages]]
) -> None:
    shutil.copytree(folder / "data" / "lines", tmp_path / "data" / "lines")
    moved = build(composed(folder, *lines_of(tmp_path))["dataset"]).split("val", transform=as_it_is)
    coco, lines = splits["val"]
    assert moved.fingerprint() == lines.fingerprint()
    assert lines.fingerprint().objects == coco.fingerprint().objects > 0


@pytest.mark.slow
def test_a_run_goes_on_with_the_same_lines_only(done: list[Done], folder: Path) -> None:
    trained = command(done, "train", "dataset=lines")
    again = [*trained.words, *SHORT, f"hydra.run.dir={trained.folder}", "resume=auto"]
    same = run(*again, cwd=folder)
    assert same.returncode == 0, same.stderr
    assert "is finished" in same.stderr + same.stdout
    table = folder / "data" / "lines" / "train.csv"
    before = table.read_text()
    file, x, rest = next(line for line in before.splitlines()[1:] if line.count(",") == 5).split(",", 2)
    moved = before.replace(f"{file},{x},{rest}", f"{file},{float(x) + 1},{rest}", 1)
    try:
        table.write_text(moved)
        refused = run(*again, "trainer.max_steps=3", cwd=folder)
    finally:
        table.write_text(before)
    assert "it has seen 40 training images" in only_error(refused)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("file,x,y,w,h,class\n000000.jpg,1,2,3,4,dog\n", "KeyError('dog')"),
        ("file,x,y,w,h,class\n000000.jpg,1,2,3,wide,star\n", "could not convert string to float: 'wide'"),
        ("file,x,y,w,h,class\nnowhere.jpg,1,2,3,4,star\n", "nowhere.jpg: missing, but listed in"),
    ],
    ids=["no_file", "unknown_class", "no_number", "no_image"],
)
def test_what_is_wrong_with_lines_is_told(folder: Path, tmp_path: Path, content: str | None, message: str) -> None:
    table = tmp_path / "train.csv"
    if content is not None:
        table.write_text(content)
    read_lines = importlib.import_module("mylab.lines").read_lines
    with pytest.raises(UserError, match=re.escape(message)) as told:
        read_lines(folder / "data" / "shapes" / "images" / "train", table, {1: "star"})
    assert str(table) in str(told.value)
