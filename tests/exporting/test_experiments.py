"""Every experiment as a file; and what the example without PyTorch finds with one, against evaluate.py."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from command import ROOT, TINY, run
from PIL import Image

from detr.config.compose import groups
from detr.exporting.export import export
from detr.exporting.program import Outputs, Wish
from detr.exporting.running import open_file
from detr.exporting.source import find

SMALL = ["augmentation=light", "augmentation.max_size=256"]
CASES = [[name] for name in groups()["experiment"]] + [
    ["deformable_detr_r50", "queries=deformable_two_stage"],
    ["deformable_detr_r50", "transformer.decoder.refine=false"],
    ["detr_r50_coco", "position_embedding=learned"],
]


@pytest.mark.slow
@pytest.mark.parametrize("words", CASES, ids=["-".join(words) for words in CASES])
def test_every_experiment_is_exported(words: list[str], tmp_path: Path) -> None:
    """Random weights; the sizes of images are smaller than an evaluation's, so that it takes a minute each."""
    source = find(None, [f"experiment={words[0]}", *words[1:], *SMALL])
    outputs: Outputs = "logits" if len(words) > 1 else "detections"
    path, differences = export(source, "onnx", Wish(outputs), str(tmp_path / "file.onnx"))
    assert differences.boxes < 0.05
    assert (differences.masks > 0) == (source.model.mask_head is not None)
    assert open_file(path).metadata["classes"] == source.classes.to_dict()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_weights_in_half_precision_take_half_the_room(suffix: str, tmp_path: Path) -> None:
    source = find(None, ["experiment=small_data", *SMALL])
    layout = {".onnx": "onnx", ".xml": "openvino"}[suffix]
    sizes = []
    for precision in ("fp32", "fp16"):
        export(source, layout, Wish("detections", precision), str(tmp_path / f"{precision}{suffix}"))  # type: ignore[arg-type]
        sizes.append(sum(each.stat().st_size for each in tmp_path.glob(f"{precision}.*") if each.suffix != ".xml"))
    assert sizes[1] < 0.6 * sizes[0]


def example() -> ModuleType:
    specification = importlib.util.spec_from_file_location("onnx_example", ROOT / "docs" / "onnx_example.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def write_data(root: Path) -> list[Path]:
    """Six pictures of several sizes in COCO's layout, one of them turned by its EXIF tag."""
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    images, annotations, files = [], [], []
    for index, (width, height) in enumerate([(96, 64), (64, 96), (300, 200), (80, 80), (451, 333), (90, 70)], start=1):
        picture = Image.effect_noise((width, height), 90).convert("RGB")
        exif = picture.getexif()
        exif[0x0112] = 6 if index == 6 else 1
        file = root / "images" / f"{index}.png"
        picture.save(file, exif=exif)
        size = {"width": height, "height": width} if index == 6 else {"width": width, "height": height}
        images.append({"id": index, "file_name": file.name, **size})
        box = {"bbox": [10, 10, 30, 40], "area": 1200, "iscrowd": 0}
        annotations.append({"id": index, "image_id": index, "category_id": (7, 9)[index % 2], **box})
        files.append(file)
    categories = [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}]
    content = json.dumps({"images": images, "annotations": annotations, "categories": categories})
    for split in ("train", "val"):
        (root / "annotations" / f"{split}.json").write_text(content)
    return files


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["augmentation=detr", "augmentation.eval.sizes=[120]"]], ids=["shrunk", "short"])
def test_the_example_finds_what_an_evaluation_finds(words: list[str], tmp_path: Path) -> None:
    files = write_data(tmp_path / "data")
    small = [each for each in TINY if not each.startswith("+dataset")]
    training = ["experiment=small_data", f"dataset.root={tmp_path}/data", "trainer.max_steps=3", *small, *words]
    done = run("train.py", *training, "dataloader.batch_size=4", f"hydra.run.dir={tmp_path}/run")
    assert done.returncode == 0, done.stderr
    checkpoint = tmp_path / "run" / "checkpoints" / "last.pt"
    done = run("evaluate.py", f"checkpoint={checkpoint}", f"hydra.run.dir={tmp_path}/evaluation")
    assert done.returncode == 0, done.stderr
    wanted = json.loads((tmp_path / "evaluation" / "predictions.json").read_text())
    done = run("-m", "detr", "export", f"checkpoint={checkpoint}", "format=onnx", "outputs=detections", timeout=900)
    assert done.returncode == 0, done.stderr
    found = tmp_path / "found.json"
    arguments = [str(checkpoint.with_suffix(".onnx")), *map(str, files), "--threshold", "0", "--json", str(found)]
    done = run("docs/onnx_example.py", *arguments)
    assert done.returncode == 0, done.stderr
    compare(json.loads(found.read_text()), wanted)


def compare(found: list[dict[str, object]], wanted: list[dict[str, object]]) -> None:
    """Detections of each image and category, in the order of their scores, but for ties."""
    assert len(found) == len(wanted) > 100
    for result in found:
        number, category = int(Path(str(result["file"])).stem), result["category_id"]
        same = [each for each in wanted if (each["image_id"], each["category_id"]) == (number, category)]
        boxes, scores = np.array([each["bbox"] for each in same]), np.array([each["score"] for each in same])
        apart = np.abs(boxes - result["bbox"]).max(1) / 0.01 + np.abs(scores - result["score"]) / 1e-4  # type: ignore[operator]
        assert apart.min() < 1, result
        wanted.remove(same[int(apart.argmin())])


def test_the_example_needs_no_pytorch() -> None:
    lines = [line.split() for line in (ROOT / "docs" / "onnx_example.py").read_text().splitlines()]
    imported = {line[1].partition(".")[0] for line in lines if line and line[0] in ("import", "from")}
    assert imported <= {
        "__future__",
        "argparse",
        "json",
        "collections",
        "pathlib",
        "typing",
        "numpy",
        "onnxruntime",
        "PIL",
    }
    places, count, length = np.arange(40), 10, 40
    first, second, share = example().neighbours(places, count, length)
    samples = np.random.default_rng(0).random(count).astype(np.float32)
    import torch

    wanted = torch.nn.functional.interpolate(torch.from_numpy(samples)[None, None], size=length, mode="linear")[0, 0]
    assert np.allclose(samples[first] * (1 - share) + samples[second] * share, wanted.numpy(), atol=1e-6)
