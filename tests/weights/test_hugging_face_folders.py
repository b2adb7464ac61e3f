"""Folders that Hugging Face's DETR really writes, loaded here: the same logits, boxes and masks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from official_layout import ARCHITECTURES, Architecture, random_weights
from PIL import Image
from test_official import TINY, load_into, outputs, scene, tiny_detector, zoo_detector
from torch import Tensor, nn

from detr import Detector
from detr.errors import UserError
from detr.models.detr import DETR
from detr.weights.sources import load


def hugging_face_model(architecture: Architecture, *, timm: bool, **options: object) -> nn.Module:
    """Theirs with random weights under which queries differ and norms matter."""
    from transformers import DetrConfig, DetrForObjectDetection, DetrForSegmentation, ResNetConfig

    stages = [f"stage{i}" for i in range(1, 5)] if architecture.masks else ["stage4"]
    backbone = {
        "use_timm_backbone": timm,
        "backbone": f"resnet{'101' if architecture.blocks[2] == 23 else '50'}" if timm else None,
        "use_pretrained_backbone": False,
        "backbone_config": None if timm else ResNetConfig(depths=list(architecture.blocks), out_features=stages),
        "dilation": architecture.dilation,
    }
    config = DetrConfig(
        **(backbone | options),
        num_labels=architecture.classes,
        num_queries=architecture.queries,
        d_model=architecture.width,
        encoder_layers=architecture.layers,
        decoder_layers=architecture.layers,
        encoder_attention_heads=architecture.heads,
        decoder_attention_heads=architecture.heads,
        encoder_ffn_dim=architecture.feed_forward,
        decoder_ffn_dim=architecture.feed_forward,
    )
    model = (DetrForSegmentation if architecture.masks else DetrForObjectDetection)(config)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items() if "tracked" not in name}
    model.load_state_dict(random_weights(shapes), strict=False)
    return model.eval()


def their_outputs(model: nn.Module, ours: DETR) -> list[Tensor]:
    """Last layer's logits and boxes, and masks, of the images of `outputs`."""
    images, padding = scene()
    with torch.no_grad():
        found = model(pixel_values=ours.backbone.normalize(images, padding), pixel_mask=(~padding).long())
    return [found.logits, found.pred_boxes, *(found.pred_masks if "pred_masks" in found else [])]


@pytest.mark.parametrize(
    ("name", "timm"),
    [
        ("detr_r50", True),
        pytest.param("detr_r50_panoptic", False, marks=pytest.mark.slow),
        *(pytest.param(name, True, marks=pytest.mark.slow) for name in ARCHITECTURES if name != "detr_r50"),
        pytest.param("detr_r50", False, marks=pytest.mark.slow),
    ],
)
def test_every_published_architecture(name: str, timm: bool, tmp_path: Path) -> None:
    theirs, ours = hugging_face_model(ARCHITECTURES[name], timm=timm), zoo_detector(name)
    theirs.save_pretrained(tmp_path)
    load_into(ours, tmp_path)
    logits, boxes, *masks = outputs(ours)
    expected = their_outputs(theirs, ours)
    assert expected[0].std(1).mean() > 1e-3  # queries differ
    assert len(masks) == (2 if ARCHITECTURES[name].masks else 0)
    for mine, other in zip([logits[-1], boxes[-1], *masks], expected, strict=True):
        assert (mine - other).abs().max() < 1e-4 * max(1, other.abs().max())


@pytest.mark.parametrize("kind", ["one", "sharded", "pickled"])
def test_kinds_of_files(kind: str, tmp_path: Path) -> None:
    theirs, ours = hugging_face_model(TINY, timm=False), tiny_detector()
    theirs.save_pretrained(tmp_path, max_shard_size="20MB" if kind == "sharded" else "1GB")
    if kind == "sharded":
        assert len(list(tmp_path.glob("*.safetensors"))) > 2
    if kind == "pickled":
        from safetensors.torch import load_file

        torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
        (tmp_path / "model.safetensors").unlink()
    load_into(ours, tmp_path)
    assert (outputs(ours)[0][-1] - their_outputs(theirs, ours)[0]).abs().max() < 1e-4


def test_learned_positions(tmp_path: Path) -> None:
    theirs = hugging_face_model(TINY, timm=False, position_embedding_type="learned")
    ours = tiny_detector("position_embedding=learned")
    theirs.save_pretrained(tmp_path)
    load_into(ours, tmp_path)
    assert (outputs(ours)[0][-1] - their_outputs(theirs, ours)[0]).abs().max() < 1e-4


def test_names_of_classes(tmp_path: Path) -> None:
    names = {0: "N/A", 1: "person", 2: "cat", 3: "dog", 4: "kite"}
    model = hugging_face_model(TINY, timm=False)
    model.save_pretrained(tmp_path / "unnamed")
    assert load(str(tmp_path / "unnamed")).classes is None
    model.config.id2label = names
    model.save_pretrained(tmp_path / "named")
    classes = load(str(tmp_path / "named")).classes
    assert classes is not None
    assert classes.names == tuple(names.values())


def broken(folder: Path, how: str) -> None:
    file, config = folder / "model.safetensors", folder / "config.json"
    if how == "truncated":
        file.write_bytes(file.read_bytes()[:5000])
    elif how == "without weights":
        file.unlink()
    elif how == "another kind":
        config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "yolos"}))
    else:
        config.write_text("{")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("truncated", ["model.safetensors", "truncated"]),
        ("without weights", ["no model.safetensors or pytorch_model.bin"]),
        ("another kind", ["config.json", "yolos"]),
        ("config", ["config.json", "JSON"]),
    ],
)
def test_broken_folders(how: str, words: list[str], tmp_path: Path) -> None:
    hugging_face_model(TINY, timm=False).save_pretrained(tmp_path)
    broken(tmp_path, how)
    with pytest.raises(UserError) as caught:
        load(str(tmp_path))
    for word in [*words, str(tmp_path)]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda w: w.pop("model.decoder.layers.1.encoder_attn.k_proj.bias"), "encoder_attn.k_proj.bias"),
        (lambda w: w.pop("model.encoder.layers.0.fc1.weight"), "model.encoder.layers.0.fc1.weight"),
        (lambda w: w.update({"model.extra": torch.zeros(1)}), "model.extra"),
        (lambda w: w["model.decoder.layers.0.self_attn.q_proj.bias"].fill_(torch.nan), "self_attn.q_proj.bias"),
    ],
)
def test_unknown_missing_and_broken_weights_are_named(change, word: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    hugging_face_model(TINY, timm=False).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    change(weights)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(UserError) as caught:
        load_into(tiny_detector(), tmp_path)
    assert word in str(caught.value)


@pytest.mark.slow
def test_a_hugging_face_folder_that_says_what_it_is_is_a_detector(tmp_path: Path) -> None:
    small = Architecture(width=32, heads=4, feed_forward=48, layers=1, queries=7)
    theirs = hugging_face_model(small, timm=True)
    theirs.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"dilation": False, "id2label": {str(i): f"kind {i}" for i in range(small.classes)}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    sizes = ["transformer.d_model=32", "transformer.num_heads=4", "transformer.dim_feedforward=48"]
    layers = ["transformer.encoder.num_layers=1", "transformer.decoder.num_layers=1", "queries.num_queries=7"]
    ours = Detector.load(str(tmp_path), device="cpu", overrides=[*sizes, *layers, "augmentation=none"])
    found = ours(Image.effect_noise((96, 64), 80), threshold=0.0)
    assert len(found) == 7
    assert set(found.names) <= {f"kind {i}" for i in range(small.classes)}
