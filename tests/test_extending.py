"""docs/extending.md as it stands there: its files in a folder of their own, its commands run in that folder."""

from __future__ import annotations

import csv
import dataclasses
import importlib
import json
import math
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from builders import random_images, random_targets
from command import ROOT, TINY, only_error, run
from PIL import Image
from torchvision.ops import box_convert

from detr.assembly import build_model
from detr.config import build, check, compose
from detr.config.containers import Section
from detr.data.dataset import AnnotatedImages, Split, Target
from detr.data.shapes.dataset import generate
from detr.errors import UserError
from detr.evaluation.coco import CocoEvaluator
from detr.losses.criterion import SetCriterion
from detr.models.detr import DETR
from detr.structures import Classes, Detections, Losses, Normalizer, Predictions, Targets
from detr.tracking.rows import read_rows

DOCUMENT = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`([\w/.]+)`:\n```\w+\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL))
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
COMMANDS = [shlex.split(line, comments=True) for block in BLOCKS for line in block.splitlines()]

(COUNTED,) = (word for word in TINY if "dataset.counts" in word)
COUNTS = yaml.safe_load(COUNTED.partition("=")[2])
SMALL = [*(word for word in TINY if word != COUNTED), "trainer.max_steps=2"]
PARTS = [word for word in TINY if word.startswith(("transformer.", "queries."))]
QUERIES, TRAINED = 20, "backbone.trainable=['.*']"


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
    """What a reader has who copied the document: code, configs, tests; and images, with their boxes as lines."""
    home = tmp_path_factory.mktemp("mine")
    for name, content in FILES.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(content, encoding="utf-8")
    generate(home / "data" / "shapes", COUNTS)
    (home / "data" / "lines").mkdir()
    (home / "data" / "lines" / "images").symlink_to(home / "data" / "shapes" / "images")
    for split in COUNTS:
        write_lines(
            home / "data" / "shapes" / "annotations" / f"{split}.json", home / "data" / "lines" / f"{split}.csv"
        )
    sys.path.insert(0, str(home))
    yield home
    sys.path.remove(str(home))
    for name in [name for name in sys.modules if name.partition(".")[0] == "mydetr"]:
        del sys.modules[name]


def write_lines(source: Path, table: Path) -> None:
    """The boxes of a COCO file, a line each; an image without any has a line of its name."""
    coco = json.loads(source.read_text())
    names = {category["id"]: category["name"] for category in coco["categories"]}
    with table.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "x", "y", "w", "h", "class"])
        for image in reversed(coco["images"]):
            found = [each for each in coco["annotations"] if each["image_id"] == image["id"]]
            writer.writerows([image["file_name"], *each["bbox"], names[each["category_id"]]] for each in found)
            if not found:
                writer.writerow([image["file_name"]])


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
            further = [*SMALL, *counts, f"hydra.run.dir={place}", f"hydra.sweep.dir={place}"]
        elif "evaluate" in words:
            words = [word.replace("outputs/train/DATE", str(found[-1].folder)) for word in words]
            further = [f"hydra.run.dir={place}"]
        found.append(Done(words, run(*words, *further, cwd=folder), place))
    return found


def command(done: Sequence[Done], *words: str) -> Done:
    """The only one that has these words, and runs something once."""
    (found,) = (each for each in done if {*words} <= {*each.words} and not {"--cfg", "-m"} & {*each.words[1:]})
    return found


def composed(folder: Path, *overrides: str) -> Section:
    """The checked config of `detr train -cd conf OVERRIDES`."""
    values, _ = check(compose([*PARTS, f"hydra.searchpath=[file://{folder / 'conf'}]", *overrides]))
    return values


def detector(values: Section) -> DETR:
    torch.manual_seed(0)
    classes = Classes.contiguous({1: "a", 2: "b", 3: "c"})
    return build_model(values, classes, pretrained=False).train()


def test_the_document_has_a_file_a_config_and_a_test_of_each_part() -> None:
    kinds = [Path(name).parts[0] for name in FILES]
    assert kinds == ["mydetr", "conf", "tests"] * 3


def test_the_code_is_as_the_projects(folder: Path) -> None:
    for words in (["check"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *words, "--config", ROOT / "pyproject.toml", "--no-cache"]
        checked = subprocess.run(
            [*ruff, folder / "mydetr", folder / "tests"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stdout


def test_every_command_succeeds(done: list[Done]) -> None:
    assert len(done) == 7
    assert [(each.words, each.process.stderr) for each in done if each.process.returncode] == []


def test_the_readers_tests_pass(done: list[Done]) -> None:
    assert "3 passed" in command(done, "pytest", "tests").process.stdout


def test_the_term_is_a_part_of_the_loss_in_every_layer(done: list[Done]) -> None:
    row = command(done, "train", "transformer/decoder=uncertain").row()
    terms = [f"train/{name}{layer}" for name in ("class", "bbox", "giou", "box_nll") for layer in ("", "/layer0")]
    terms += [f"train/encoder/{name}" for name in ("class", "bbox", "giou")]
    assert all(math.isfinite(row[name]) for name in terms)
    assert row["train/loss"] == pytest.approx(sum(row[name] for name in terms), rel=1e-5)
    assert not any(name.startswith("train/encoder/box_nll") for name in row)


def test_the_sweep_tries_both_decoders(done: list[Done]) -> None:
    (sweep,) = (each for each in done if "-m" in each.words[1:])
    rows = [read_rows(sweep.folder / str(job) / "metrics.jsonl")[-1] for job in range(2)]
    assert ["train/box_nll" in row for row in rows] == [False, True]


def step(model: DETR, criterion: SetCriterion) -> tuple[Predictions, Losses]:
    """Outputs and losses of two images with three objects."""
    targets: Targets = random_targets([2, 1])
    images = random_images([(64, 96), (96, 64)])
    torch.manual_seed(1)
    predictions = model(*images, targets)
    return predictions, criterion(predictions, targets, Normalizer(objects=3, images=2))


def test_the_extra_goes_where_boxes_go(folder: Path) -> None:
    """Also to denoising queries and to those of several that answer for an object, which the proposals are not."""
    values = composed(
        folder,
        "transformer/decoder=uncertain",
        "backbone=plain",
        TRAINED,
        "denoising=contrastive",
        "one_to_many=hybrid",
        "one_to_many.num_queries=10",
    )
    model = detector(values)
    predictions, losses = step(model, build(values["loss"]))
    assert predictions.extras["log_scale"].shape == predictions.boxes.shape == (2, 2, QUERIES, 4)
    for name, group in predictions.groups.items():
        extras = group.outputs.extras
        assert name == "encoder" or extras["log_scale"].shape == group.outputs.boxes.shape
    assert predictions.groups.keys() == {"encoder", "one_to_many", "denoising"}
    assert {name for name in losses.terms if "box_nll" in name} == {
        "box_nll",
        "one_to_many/box_nll",
        "denoising/box_nll",
    }
    losses.total.backward()
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None for parameter in learning)
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.decoder.scale_head.parameters())


def test_the_term_teaches_the_head(folder: Path) -> None:
    """With everything else frozen only this term gets better, in every layer."""
    values = composed(folder, "transformer/decoder=uncertain", "backbone=plain", TRAINED)
    model, criterion = detector(values), build(values["loss"])
    optimizer = torch.optim.Adam(model.decoder.scale_head.parameters(), lr=0.1)
    history = []
    for _ in range(10):
        _, losses = step(model, criterion)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        history.append({name: value.detach() for name, value in losses.terms.items()})
    assert (history[-1]["box_nll"] < history[0]["box_nll"] - 0.5).all()
    assert all(torch.equal(history[0][name], history[-1][name]) for name in history[0] if name != "box_nll")


def test_a_decoder_that_does_not_say_what_a_term_needs_is_told(folder: Path) -> None:
    values = composed(folder, "backbone=plain", TRAINED, "+loss.terms.box_nll._target_=mydetr.uncertain.BoxNLL")
    with pytest.raises(UserError, match=r"^loss.terms.box_nll needs log_scale, which this decoder does not predict$"):
        step(detector(values), build(values["loss"]))


@pytest.mark.parametrize(
    ("word", "hint"),
    [("trainer.max_step=3", "did you mean trainer.max_steps?"), ("backbone=plian", "did you mean plain?")],
)
def test_a_typo_beside_ones_own_configs_is_answered(folder: Path, word: str, hint: str) -> None:
    assert hint in only_error(run("-m", "detr", "train", "-cd", "conf", word, cwd=folder))


def test_a_module_that_is_not_found_is_told(folder: Path, tmp_path: Path) -> None:
    line = only_error(run("-m", "detr", "train", "-cd", str(folder / "conf"), "backbone=plain", cwd=tmp_path))
    assert "backbone._target_: there is no module mydetr; install it, or add its folder to PYTHONPATH" in line


def test_what_the_backbone_freezes_stays(folder: Path) -> None:
    values = composed(folder, "backbone=plain", "backbone.trainable=['stage[12]']")
    model, criterion = detector(values), build(values["loss"])
    optimizer = build(values["optimizer"], model=model)
    before = {name: parameter.detach().clone() for name, parameter in model.backbone.named_parameters()}
    _, losses = step(model, criterion)
    losses.total.backward()
    optimizer.step()
    for name, parameter in model.backbone.named_parameters():
        learns = not name.startswith("body.stage0")
        assert (parameter.grad is not None) == learns
        assert torch.equal(parameter, before[name]) != learns
    assert {name.split(".")[1] for name in before} == {"stage0", "stage1", "stage2"}  # the quickstart's two levels
    assert (model.backbone.channels, model.backbone.strides) == ([64, 128], [8, 16])


def test_the_backbone_says_what_does_not_fit(folder: Path) -> None:
    with pytest.raises(UserError, match=r"^backbone: trainable: .* does not match .* stage0, stage1, stage2$"):
        detector(composed(folder, "backbone=plain"))  # the quickstart's own expressions


def test_the_backbone_is_trained_from_the_command_line(done: list[Done]) -> None:
    trained = command(done, "train", "backbone=plain")
    checkpoint = torch.load(trained.folder / "checkpoints" / "last.pt", weights_only=True)
    learned = [name for name in checkpoint["model"] if name.startswith("backbone.")]
    assert {name.split(".")[2] for name in learned} == {"stage0", "stage1", "stage2"}
    assert math.isfinite(trained.row()["val/loss"])


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
    """The data set as the document has it, but wherever one is."""
    (command,) = (words for words in COMMANDS if "dataset=lines" in words)
    words = [word for word in command if word.startswith("dataset")]
    return [word.replace("data/lines", str(folder / "data" / "lines")) for word in words]


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


def test_the_checkpoint_evaluates_to_the_rows_numbers(done: list[Done]) -> None:
    trained, evaluated = command(done, "train", "dataset=lines"), command(done, "evaluate")
    metrics = json.loads((evaluated.folder / "metrics.json").read_text())
    per_class = metrics.pop("per_class")
    row = trained.row()
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


def test_a_run_goes_on_with_the_same_lines_only(done: list[Done], folder: Path) -> None:
    trained = command(done, "train", "dataset=lines")
    again = [*trained.words, *SMALL, f"hydra.run.dir={trained.folder}", "resume=auto"]
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
    read_lines = importlib.import_module("mydetr.lines").read_lines
    with pytest.raises(UserError, match=re.escape(message)) as told:
        read_lines(folder / "data" / "shapes" / "images" / "train", table, {1: "star"})
    assert str(table) in str(told.value)
