"""The table of official names, for every published architecture, against the layout that official_layout.py has."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from official_forward import OfficialModel
from official_layout import ARCHITECTURES, R101, Architecture, official_shapes, random_weights, write_official
from torch import Tensor

from detr.config import build, compose, resolved
from detr.errors import UserError
from detr.models.detr import DETR
from detr.weights.checkpoint import load_weights
from detr.weights.official import from_official, to_official
from detr.weights.sources import load, load_strictly
from detr.weights.zoo import ZOO, OfficialFile

OFFICIAL = {name: each for name, each in ZOO.items() if isinstance(each, OfficialFile)}
TINY = Architecture(width=32, heads=4, feed_forward=48, layers=2, queries=7, classes=5)
SIZES = (
    *("transformer.d_model=32", "transformer.num_heads=4", "transformer.dim_feedforward=48"),
    *("transformer.encoder.num_layers=2", "transformer.decoder.num_layers=2", "queries.num_queries=7"),
)


@functools.cache
def detector(experiment: str, classes: int, *overrides: str) -> DETR:
    """The detector of an experiment, in evaluation mode."""
    config = resolved(
        compose([f"experiment={experiment}", "backbone.weights=null", "transformer.dropout=0", *overrides])
    )
    return build(config["model"], num_classes=classes).eval()


def zoo_detector(name: str) -> DETR:
    architecture = ARCHITECTURES[name]
    backbone = f"backbone=resnet{'101' if architecture.blocks == R101 else '50'}{'_dc5' * architecture.dilation}"
    head = f"mask_head={'fpn' if architecture.masks else 'none'}"
    return detector("detr_r50_coco", architecture.classes, backbone, head)


def thorough(names: Iterable[str], *quick: str) -> list[Any]:
    """All of them for the slow tests, `quick` for every run."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


def tiny_detector(*overrides: str) -> DETR:
    return detector("detr_r50_coco", 5, *SIZES, *overrides)


def load_into(model: DETR, path: Path) -> None:
    load_strictly(model, load(str(path)))


def compare_with_the_official_forward_pass(
    ours: list[Tensor], model: DETR, path: Path, architecture: Architecture
) -> None:
    """Names that were mixed up would survive a way there and back; meanings do not."""
    weights = {
        name.removeprefix("detr."): value for name, value in torch.load(path, weights_only=True)["model"].items()
    }
    images, padding = scene()
    with torch.no_grad():
        logits, boxes, masks = OfficialModel(weights, architecture)(model.backbone.normalize(images, padding), padding)
    expected = [logits, boxes, *([] if masks is None else masks)]
    for mine, other in zip([ours[0][-1], ours[1][-1], *ours[2:]], expected, strict=True):
        assert (mine - other).abs().max() < 1e-4 * max(1, other.abs().max())


def scene() -> tuple[Tensor, Tensor]:
    """Two images of different sizes, and their padding."""
    images = torch.rand(2, 3, 96, 128, generator=torch.Generator().manual_seed(1))
    padding = torch.zeros(2, 96, 128, dtype=torch.bool)
    padding[1, 64:], padding[1, :, 96:] = True, True
    return images, padding


def outputs(model: DETR) -> list[Tensor]:
    """Logits, boxes and, where there are any, masks of the scene."""
    with torch.no_grad():
        predictions = model(*scene())
    found = [predictions.logits, predictions.boxes]
    if predictions.masks is not None:
        queries = torch.arange(predictions.logits.shape[2])
        found += [predictions.masks(torch.full_like(queries, image), queries) for image in range(2)]
    return found


def test_the_zoo_is_the_list_of_architectures() -> None:
    assert ARCHITECTURES.keys() == OFFICIAL.keys()
    assert len({each.file for each in OFFICIAL.values()}) == 7
    assert all(re.fullmatch(r"[0-9a-f]{8}", each.sha256) for each in OFFICIAL.values())


@pytest.mark.parametrize("name", OFFICIAL)
def test_every_published_model_has_its_experiment(name: str, tmp_path: Path) -> None:
    config = resolved(compose([f"experiment={OFFICIAL[name].experiment}"]))
    architecture = ARCHITECTURES[name]
    assert config["backbone"]["name"] == f"resnet{'101' if architecture.blocks == R101 else '50'}"
    assert config["backbone"]["dilation"] == architecture.dilation
    assert (config["mask_head"] is not None) == architecture.masks
    small = replace(architecture, layers=1, feed_forward=8)  # experiments are told by backbone and mask head
    likely = load(str(write_official(tmp_path / "nameless.pth", small))).likely_experiments()
    assert OFFICIAL[name].experiment in likely
    assert len(likely) == (1 if name == "detr_r101_panoptic" else 2)


@pytest.mark.parametrize("name", thorough(ARCHITECTURES, "detr_r50"))
def test_load_forward_export_load_is_bit_identical(name: str, tmp_path: Path) -> None:
    model = zoo_detector(name)
    shapes = official_shapes(ARCHITECTURES[name])
    assert {key: tuple(value.shape) for key, value in to_official(model.state_dict(), "").items()} == shapes
    weights = load(str(write_official(tmp_path / "official.pth", ARCHITECTURES[name])))
    load_weights(model, weights.tensors, "")
    first = outputs(model)
    compare_with_the_official_forward_pass(first, model, tmp_path / "official.pth", ARCHITECTURES[name])
    assert first[0].std(2).mean() > 1e-3  # queries differ
    exported = to_official(model.state_dict(), "")
    torch.save({"model": exported}, tmp_path / "exported.pth")
    original = torch.load(tmp_path / "official.pth", weights_only=True)["model"]
    assert exported.keys() == original.keys()
    assert all(torch.equal(exported[key], original[key]) for key in original)
    for parameter in model.parameters():
        parameter.data.zero_()
    load_weights(model, load(str(tmp_path / "exported.pth")).tensors, "")
    assert all(torch.equal(one, other) for one, other in zip(first, outputs(model), strict=True))


@pytest.mark.parametrize("name", ["detr_r50", "detr_r50_panoptic"])
def test_the_table_is_one_to_one(name: str) -> None:
    shapes = official_shapes(ARCHITECTURES[name])
    weights = {key: torch.zeros(1) for key in shapes}
    ours = from_official(weights, "")
    assert len(ours) == len(weights)
    assert to_official(ours, "").keys() == weights.keys()


@pytest.mark.parametrize("overrides", [("position_embedding=learned",), ("transformer=detr_pre_norm",)])
def test_variants_of_the_official_code(overrides: tuple[str, ...]) -> None:
    model = tiny_detector(*overrides)
    exported = to_official(model.state_dict(), "")
    extra = exported.keys() - official_shapes(TINY).keys()
    learned = {"backbone.1.row_embed.weight", "backbone.1.col_embed.weight"}  # models/position_encoding.py, Joiner
    final = {"transformer.encoder.norm.weight", "transformer.encoder.norm.bias"}  # models/transformer.py
    assert extra == (learned if "learned" in overrides[0] else final)
    assert from_official(exported, "").keys() == model.state_dict().keys()


def test_a_file_that_main_py_left(tmp_path: Path) -> None:
    weights = load(str(write_official(tmp_path / "checkpoint.pth", TINY, training=True)))
    load_weights(tiny_detector(), weights.tensors, "")
    assert weights.checkpoint is None


WRAPPED = {
    "ddp": lambda w: {"model": {f"module.{name}": tensor for name, tensor in w.items()}},
    "compiled": lambda w: {"model": {f"module._orig_mod.{name}": tensor for name, tensor in w.items()}, "epoch": 3},
    "lightning": lambda w: {"state_dict": {f"model.{name}": tensor for name, tensor in w.items()}},
    "average": lambda w: {"ema": w, "epoch": 3},
    "average in a module": lambda w: {"model_ema": {"module": w, "updates": 7}},
    "bare": lambda w: w,
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_what_training_scripts_wrap_weights_in_is_taken_away(kind: str, tmp_path: Path) -> None:
    weights = random_weights(official_shapes(TINY))
    torch.save(WRAPPED[kind](weights), tmp_path / "file.pth")
    loaded = load(str(tmp_path / "file.pth")).tensors
    expected = from_official(weights, "")
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_names_in_messages_are_those_of_the_file(tmp_path: Path) -> None:
    weights = random_weights(official_shapes(TINY))
    del weights["transformer.decoder.norm.bias"]
    torch.save(WRAPPED["ddp"](weights), tmp_path / "file.pth")
    with pytest.raises(UserError, match=r"1 missing \(module\.transformer\.decoder\.norm\.bias\)"):
        load_into(tiny_detector(), tmp_path / "file.pth")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"model": {"stem.weight": torch.zeros(1), "fc.weight": torch.zeros(1)}}, "stem.weight and 1 more"),
        ({"generator": {}, "epoch": 3}, "generator and 1 more"),
        ({}, "nothing"),
    ],
)
def test_a_foreign_file_is_answered_with_what_is_in_it(content: dict, found: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(UserError, match=f"class_embed and query_embed, but {re.escape(found)}$"):
        load(str(tmp_path / "file.pth"))


def test_softmax_logits_are_not_evaluated_as_sigmoids(tmp_path: Path) -> None:
    """Of K classes there are K + 1 logits: as many as sigmoids of K + 1 classes have."""
    torch.save({"model": random_weights(official_shapes(TINY))}, tmp_path / "file.pth")
    model = detector("detr_r50_coco", 6, *SIZES, "loss=focal")
    with pytest.raises(UserError, match="are for softmax, those of this detector for sigmoid"):
        load_into(model, tmp_path / "file.pth")


def test_another_number_of_heads_is_told(tmp_path: Path) -> None:
    """Wherever the file says how many there are: it changes no name and no shape."""
    path = write_official(tmp_path / "checkpoint.pth", TINY, training=True)  # 4
    with pytest.raises(UserError, match=r"transformer\.num_heads is 4 in it and 8 here"):
        load_into(tiny_detector("transformer.num_heads=8"), path)
    load_into(tiny_detector(), path)


def test_counters_of_batch_norm_are_left_out() -> None:
    weights = random_weights(official_shapes(TINY))
    weights["backbone.0.body.bn1.num_batches_tracked"] = torch.tensor(7)
    load_weights(tiny_detector(), from_official(weights, ""), "")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.pop("transformer.decoder.norm.bias"), ["1 missing", "transformer.decoder.norm.bias"]),
        (lambda w: w.update({"transformer.decoder.gate.weight": torch.zeros(1)}), ["transformer.decoder.gate.weight"]),
        (lambda w: w.update({"backbone.0.body.fc.weight": torch.zeros(1)}), ["backbone.0.body.fc.weight"]),
        (
            lambda w: w.update({"input_proj.bias": torch.full((32,), torch.nan)}),
            ["input_proj.bias", "not finite"],
        ),
        (
            lambda w: w.update({"bbox_embed.layers.2.bias": torch.tensor([0, torch.inf, 0, 0])}),
            ["bbox_embed.layers.2.bias", "not finite"],
        ),
    ],
)
def test_unknown_missing_and_broken_weights_are_named(change, words: list[str], tmp_path: Path) -> None:
    weights = random_weights(official_shapes(TINY))
    change(weights)
    path = tmp_path / "changed.pth"
    torch.save({"model": weights}, path)
    with pytest.raises(UserError) as caught:
        load_into(tiny_detector(), path)
    for word in [*words, str(path)]:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("architecture", "words"),
    [
        (
            Architecture(width=32, heads=4, feed_forward=48, layers=3, queries=7, classes=5),
            ["num_layers is 3 in it and 2"],
        ),
        (
            Architecture(width=64, heads=4, feed_forward=48, layers=2, queries=7, classes=5),
            ["d_model is 64 in it and 32"],
        ),
        (
            Architecture((3, 4, 23, 3), width=32, heads=4, feed_forward=48, layers=2, queries=7, classes=5),
            ["backbone is resnet101 in it and resnet50"],
        ),
        (Architecture(width=32, heads=4, feed_forward=48, layers=2, queries=9, classes=5), ["num_queries is 9"]),
        (Architecture(width=32, heads=4, feed_forward=48, layers=2, queries=7, classes=6), ["class logits is 7"]),
    ],
)
def test_another_architecture_is_told(architecture: Architecture, words: list[str], tmp_path: Path) -> None:
    path = write_official(tmp_path / "other.pth", architecture)
    with pytest.raises(UserError) as caught:
        load_into(tiny_detector(), path)
    for word in [*words, "other.pth"]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["queries=anchors", "transformer/decoder=anchor"], "queries.content.weight"),
        (["neck=multi_level", "neck.num_levels=1"], "neck.level_embedding"),
        (["backbone=efficientnet_lite0", "backbone.weights=null"], "backbone.body.conv_stem.weight"),
    ],
)
def test_other_detectors_have_no_official_layout(overrides: list[str], name: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"no place for {name}")):
        to_official(tiny_detector(*overrides).state_dict(), "model.pt")
