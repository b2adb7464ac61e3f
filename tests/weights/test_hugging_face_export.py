"""`detr export format=hugging_face`: transformers loads the folder and answers as the detector does; so do we."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import ROOT, only_error, run
from official_layout import Architecture, write_official
from PIL import Image

from detr.config.compose import groups
from detr.data.coco_categories import THINGS, coco_named
from detr.errors import UserError
from detr.exporting.hugging_face import export_folder
from detr.exporting.source import find
from detr.models.detr import DETR
from detr.weights.sources import load, load_strictly
from detr.weights.zoo import ZOO, HubFolder, detector_of

SMALL = Architecture(width=32, heads=4, feed_forward=48, layers=2, queries=7)
DECODER = [
    *("transformer.d_model=32", "transformer.num_heads=4", "transformer.dim_feedforward=48"),
    *("transformer.decoder.num_layers=2", "queries.num_queries=7", "backbone.weights=null"),
]
SIZES = [*DECODER, "transformer.encoder.num_layers=2"]
LIGHT = [*DECODER, "transformer.decoder.cross_heads=8", "backbone.width=48", "backbone.num_heads=3"]


def slow(*values: object) -> object:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("detector", "words", "size"),
    [
        ("detr_r50", SIZES, (96, 128)),
        ("rt_detr_r18", SIZES, (96, 96)),
        slow("deformable_detr_r50_two_stage", SIZES, (96, 128)),
        slow("dab_detr_r50", SIZES, (96, 128)),
        slow("conditional_detr_r50", SIZES, (96, 128)),
        slow("rf_detr_nano", LIGHT, (96, 96)),
        slow("lw_detr_tiny", LIGHT, (128, 128)),
        slow("d_fine_n", DECODER, (96, 96)),
        slow("detr_r50_masks", [*SIZES, "transformer.num_heads=8"], (96, 128)),
        slow("rf_detr_nano", [*LIGHT, "mask_head=product"], (96, 96)),
    ],
)
def test_transformers_answers_as_we_do(detector: str, words: list[str], size: tuple[int, int], tmp_path: Path) -> None:
    import transformers

    weights = str(write_official(tmp_path / "detr.pth", SMALL)) if detector == "detr_r50" else None
    source = find(weights, [f"detector={detector}", *words, f"augmentation.eval.sizes=[{size[0]}]"])
    if weights is None:  # drawn by us
        spread(source.model)
    folder = export_folder(source, tmp_path / "folder")
    theirs = loaded(folder, masks=source.model.mask_head is not None)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8))
    inputs = transformers.AutoImageProcessor.from_pretrained(folder)(picture, return_tensors="pt")
    image, _ = source.transform(picture, {})
    assert inputs["pixel_values"].shape[-2:] == (image.height, image.width) == size
    with torch.no_grad():
        said = theirs(**inputs)
        pixels = inputs["pixel_values"]  # our model normalises: undo what their processor did
        images = pixels * source.model.backbone.std + source.model.backbone.mean
        answer = source.model(images, torch.zeros(1, *size, dtype=torch.bool))
    assert said.logits.std(1).mean() > 1e-3  # queries differ: the comparison is not one of constants
    assert (said.logits - answer.logits[-1]).abs().max() < 1e-4
    assert (said.pred_boxes - answer.boxes[-1]).abs().max() < 1e-5
    if answer.masks is not None:
        queries = torch.arange(answer.logits.shape[2])
        masks = answer.masks(torch.zeros_like(queries), queries)
        torch.testing.assert_close(said.pred_masks[0], masks, rtol=1e-4, atol=1e-4)
    assert theirs.config.id2label[17] == "cat"
    load_strictly(source.model, load(str(folder)))  # and back


@torch.no_grad()
def spread(model: DETR) -> None:
    """Let queries differ by more than drawn heads say of them."""
    for name, parameter in model.named_parameters():
        if name.startswith("class_head.") and parameter.dim() > 1:
            parameter.mul_(10)


def loaded(folder: Path, *, masks: bool) -> Any:
    """What transformers finds in the folder by itself, every weight at its place."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    kind = getattr(transformers, config.architectures[0]) if masks else transformers.AutoModelForObjectDetection
    model, report = kind.from_pretrained(folder, output_loading_info=True)
    lost = {key for found in report.values() for key in found if not key.endswith("_points_scale")}  # derived
    assert not lost
    return model.eval()


@pytest.mark.parametrize("name", [name for name, each in ZOO.items() if isinstance(each, HubFolder)])
def test_published_names_belong_to_detectors(name: str) -> None:
    assert detector_of(name) in groups()["detector"]


def test_without_a_connection_the_repository_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*_: object, **__: object) -> None:
        raise OSError("nobody answers")

    monkeypatch.setattr("detr.weights.zoo.get_hf_file_metadata", nobody)
    with pytest.raises(UserError, match=r"PekingU/rtdetr_r18vd could not be downloaded .*nobody answers"):
        load("rt_detr_r18")


def test_a_folder_of_the_hubs_cache_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With COCO's 80 classes, its own category ids, and a file that was damaged."""
    source = find(None, ["detector=rt_detr_r18", *SIZES, "augmentation.eval.sizes=[96]"])
    folder = export_folder(source, tmp_path / "folder")
    weights = (folder / "model.safetensors").read_bytes()
    digest = hashlib.sha256(weights).hexdigest()
    snapshot = tmp_path / "models--PekingU--rtdetr_r18vd" / "snapshots" / "revision"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_bytes((folder / "config.json").read_bytes())
    (snapshot / "model.safetensors").symlink_to(tmp_path / digest)
    (tmp_path / digest).write_bytes(weights)
    monkeypatch.setattr("detr.weights.zoo.snapshot_download", lambda *_, **__: str(snapshot))
    monkeypatch.setattr("detr.weights.zoo.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr("detr.weights.zoo.get_hf_file_metadata", lambda *_, **__: None)
    loaded = load("rt_detr_r18")
    assert loaded.config == ("detector=rt_detr_r18", "dataset=coco")
    assert loaded.classes == source.classes
    (tmp_path / digest).write_bytes(weights[:-1])
    with pytest.raises(UserError, match="was damaged"):
        load("rt_detr_r18")


def test_a_detector_that_transformers_does_not_have_is_refused(tmp_path: Path) -> None:
    done = run("-m", "detr", "export", "detector=tiny", "format=hugging_face", cwd=tmp_path)
    assert "transformers has no detector with these parts" in only_error(done)
    assert not list(tmp_path.iterdir())


def test_of_the_command_line_a_folder(tmp_path: Path) -> None:
    words = ["detector=detr_r50", "backbone=resnet18", *SIZES, "format=hugging_face", "output=folder"]
    assert run("-m", "detr", "export", *words, cwd=tmp_path).returncode == 0
    assert {each.name for each in (tmp_path / "folder").iterdir()} == {
        *("config.json", "model.safetensors", "preprocessor_config.json")
    }
    config = json.loads((tmp_path / "folder/config.json").read_text())
    assert (config["model_type"], config["backbone"], len(config["id2label"])) == ("detr", "resnet18", 91)


@pytest.mark.parametrize("words", [["transformer.num_heads=4"], ["mask_head.box=true"], ["mask_head=product"]])
def test_mask_heads_that_transformers_does_not_have_are_refused(words: list[str], tmp_path: Path) -> None:
    source = find(None, ["detector=detr_r50_masks", "backbone=resnet18", *SIZES, "transformer.num_heads=8", *words])
    with pytest.raises(UserError, match=r"DETR's layout has masks of mask_head=fpn only, with box=false and as many"):
        export_folder(source, tmp_path / "folder")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("count", [80, 91])
def test_cocos_classes_are_known_by_their_names(count: int) -> None:
    names = [THINGS.get(index, "N/A") for index in range(91)] if count == 91 else list(THINGS.values())
    spelt = ["sofa" if name == "couch" else name for name in names]
    classes = coco_named(spelt)
    assert classes is not None
    assert classes.category_ids[classes.names.index("couch")] == 63
    assert coco_named(spelt[1:]) is None
    assert coco_named([*spelt[:5], "dog", *spelt[6:]]) is None


def test_the_documents_know_every_name() -> None:
    """In rows of their own: those of published weights, and those of detectors."""
    for names, page in ((ZOO, "weights.md"), (groups()["detector"], "family.md")):
        rows = [
            line for line in (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines() if line.startswith("|")
        ]
        assert [name for name in names if not any(f"`{name}`" in row for row in rows)] == []
