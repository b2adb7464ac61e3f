"""RF-DETR's and LW-DETR's weights there and back: the authors' names, Hugging Face's files, and theirs in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import CLASSES, random_images
from lw_detr_family import Family, detector, saved, theirs_of
from safetensors.torch import save_file
from torch import Tensor, nn

from detr.assembly import build_model
from detr.config import compose, resolved
from detr.config.compose import groups
from detr.errors import UserError
from detr.models.detr import DETR
from detr.structures import Classes
from detr.weights.checkpoint import load_weights
from detr.weights.layouts import lw_detr, rf_detr
from detr.weights.layouts.blocks import their_names
from detr.weights.layouts.lw_detr import their_groups
from detr.weights.renaming import COUNTER
from detr.weights.sources import Weights
from detr.weights.transfer import start_from

LAYOUTS: dict[str, Any] = {"rf": rf_detr, "lw": lw_detr}
DETECTORS = [name for name in groups()["detector"] if name.startswith(("rf_detr_", "lw_detr_"))]
SCALES = {"rf": (1.0,), "lw": (2.0, 0.5)}


def built(family: Family) -> tuple[DETR, nn.Module]:
    """A detector of ours with the weights of Hugging Face's, and that one."""
    ours = detector(family, scales=SCALES[family])
    theirs = theirs_of(family, LAYOUTS[family].config_of(ours))
    load_weights(ours, LAYOUTS[family].to_ours(saved(theirs)), "theirs")
    return ours.eval(), theirs.eval()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """But for what nothing reads."""
    names = {name for name in (*one, *other) if not name.endswith(COUNTER)}
    return names <= one.keys() & other.keys() and all(torch.equal(one[name], other[name]) for name in names)


@pytest.mark.parametrize("family", LAYOUTS)
@torch.no_grad()
def test_there_and_back(family: Any, tmp_path: Path) -> None:
    """A folder that is written here is read by transformers without a word, and answers alike."""
    import transformers

    ours, theirs = built(family)
    layout = LAYOUTS[family]
    written = layout.to_theirs(ours.state_dict())
    assert same(layout.to_ours(written), ours.state_dict())
    assert written.keys() == saved(theirs).keys()
    save_file({name: value.contiguous() for name, value in written.items()}, tmp_path / "model.safetensors")
    labels = {"id2label": {index: str(index) for index in range(CLASSES)}}
    (tmp_path / "config.json").write_text(json.dumps(layout.config_of(ours) | labels))
    kind = {"rf": transformers.RfDetrForObjectDetection, "lw": transformers.LwDetrForObjectDetection}[family]
    read, info = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    images = random_images([(128, 128)])[0]
    answers = [each.eval()(pixel_values=images) for each in (read, theirs)]
    torch.testing.assert_close(answers[0].logits, answers[1].logits)
    torch.testing.assert_close(answers[0].pred_boxes, answers[1].pred_boxes)


@pytest.mark.parametrize("family", LAYOUTS)
def test_other_names(family: Any) -> None:
    """The authors' files, and those with the names that transformers has in memory."""
    ours, theirs = built(family)
    layout, state = LAYOUTS[family], ours.state_dict()
    assert same(layout.to_ours(dict(theirs.state_dict())), state)
    authors = their_names(their_groups(state), layout.AUTHORS, family, "here")
    assert "transformer.enc_out_class_embed.2.weight" in authors
    assert "transformer.decoder.layers.1.self_attn.in_proj_weight" in authors
    assert same(layout.to_ours(authors), state)


@pytest.mark.parametrize("family", LAYOUTS)
def test_unknown_and_missing_names_are_told(family: Any) -> None:
    ours, theirs = built(family)
    layout, state = LAYOUTS[family], dict(theirs.state_dict())
    with pytest.raises(UserError, match=r"file: model\.other\.weight is no weight of"):
        layout.to_ours(state | {"model.other.weight": torch.zeros(1)}, "file")
    del state["model.decoder.layers.0.self_attn.k_proj.weight"]
    with pytest.raises(UserError, match=r"file: .+\.self_attn\.k_proj\.weight is missing"):
        layout.to_ours(state, "file")
    with pytest.raises(UserError, match="has no place for denoising"):
        layout.to_theirs(ours.state_dict() | {"denoising.x": torch.zeros(1)}, "file")
    other = detector("lw" if family == "rf" else "rf")
    with pytest.raises(UserError, match="layout is for backbone="):
        layout.config_of(other)


def test_other_grids_and_groups() -> None:
    """From weights with groups and another table of positions, to a detector without."""
    torch.manual_seed(0)
    before, after = detector("rf"), detector("rf", groups=1, grid=4)
    classes = Classes.contiguous({index: str(index) for index in range(CLASSES)})
    weights = Weights(dict(before.state_dict()), "somewhere", classes=classes, classification="sigmoid")
    transfer = start_from(after, weights, classes)
    assert transfer.skipped == ["queries.further_heads (24 weights), which the model does not have"]
    assert "backbone.pos_embed: interpolated from 6 × 6 to 4 × 4" in transfer.adapted
    assert torch.equal(after.queries.content.weight, before.queries.content.weight[: len(after.queries.content.weight)])
    assert torch.equal(after.backbone.own_table(before.backbone.pos_embed), after.backbone.pos_embed)


@pytest.mark.parametrize("name", DETECTORS)
def test_configurations_say_which_detector_they_are_of(name: str) -> None:
    from transformers import LwDetrConfig, RfDetrConfig

    with torch.device("meta"):
        model = build_model(named(name), Classes.contiguous({0: "a"}), pretrained=False)
    layout, kind = (rf_detr, RfDetrConfig) if name.startswith("rf") else (lw_detr, LwDetrConfig)
    config = kind(**layout.config_of(model)).to_dict()
    assert layout.detector_of(config) == name
    assert layout.detector_of(config | {"decoder_layers": 9, "num_queries": 9}) is None


def named(name: str) -> Any:
    return resolved(compose(["~experiment", f"detector={name}"]))


@pytest.mark.slow
@pytest.mark.parametrize("name", DETECTORS)
@torch.no_grad()
def test_full_sizes_give_the_same_numbers(name: str) -> None:
    """On an image of the size that it was made for, and on a smaller one; in double precision, or of two tokens that
    are equally sure another one would be chosen."""
    values = named(name)
    ours = build_model(values, Classes.contiguous({index: str(index) for index in range(91)}), pretrained=False).eval()
    family: Any = name[:2]
    layout = LAYOUTS[family]
    theirs = theirs_of(family, layout.config_of(ours), classes=91, noise=0.02).eval()
    load_weights(ours, layout.to_ours(saved(theirs)), "theirs")
    ours, theirs = ours.double(), theirs.double()
    (size,) = values["augmentation"]["eval"]["sizes"]
    for side in (size, size - 2 * ours.backbone.size_divisor):
        images, padding = random_images([(side, side)])
        images = images.double()
        found, expected = ours(images, padding), theirs(pixel_values=ours.backbone.normalize(images, padding))
        assert expected.logits.std(1).mean() > 1e-2
        torch.testing.assert_close(found.logits[-1], expected.logits, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.boxes[-1], expected.pred_boxes, rtol=1e-5, atol=1e-5)
