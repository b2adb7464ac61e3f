"""D-FINE as transformers has it: the same numbers, and weights there and back; names of the authors' files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from d_fine_example import CLASSES, hgnet, small_d_fine
from hugging_face_family import give_values_that_matter
from safetensors.torch import load_file, save_file
from torch import nn

from detr.assembly import build_model
from detr.config import compose, resolved
from detr.errors import UserError
from detr.models.detr import DETR
from detr.structures import Classes
from detr.weights.layouts.d_fine import AUTHORS, config_of, detector_of, to_ours, to_theirs
from detr.weights.renaming import COUNTER, Renaming

NAMES = ["d_fine_n", "d_fine_s", "d_fine_m", "d_fine_l", "d_fine_x"]


def read_back(model: DETR, folder: Path, classes: int = CLASSES) -> nn.Module:
    """What transformers reads from a folder that we have written."""
    from transformers import DFineConfig, DFineForObjectDetection

    folder.mkdir()
    DFineConfig(**config_of(model), num_labels=classes, architectures=["DFineForObjectDetection"]).save_pretrained(
        folder
    )
    state = {name: tensor.contiguous() for name, tensor in to_theirs(model.state_dict()).items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return DFineForObjectDetection.from_pretrained(folder).eval()


def check_the_way_back(ours: DETR, theirs: Any, folder: Path) -> None:
    """What transformers writes are our weights again."""
    theirs.save_pretrained(folder)
    found = to_ours(load_file(folder / "model.safetensors"))
    own = {name: tensor for name, tensor in ours.state_dict().items() if not name.endswith(COUNTER)}
    assert {name for name in found if not name.endswith(COUNTER)} == own.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in own.items())


@torch.no_grad()
def check_the_same(ours: DETR, theirs: Any, size: tuple[int, int], tolerance: float) -> None:
    """Logits and boxes of the last layer and of the proposals."""
    kind = next(ours.parameters()).dtype
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)).to(kind)
    predictions = ours(images, torch.zeros(2, *size, dtype=torch.bool))
    expected = theirs(pixel_values=images)
    proposals = predictions.groups["encoder"].outputs
    for mine, their in (
        (predictions.logits[-1], expected.logits),
        (predictions.boxes[-1], expected.pred_boxes),
        (proposals.logits[0], expected.enc_topk_logits),
        (proposals.boxes[0], expected.enc_topk_bboxes),
    ):
        assert their.std(1).mean() > 1e-2  # queries differ: the comparison is not one of constants
        torch.testing.assert_close(mine, their, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "options",
    [{}, {"levels": 2, "num_points": [6, 6]}, {"encoder_width": 48, "curvature": 0.125, "num_blocks": 2, "layers": 2}],
    ids=["three_levels", "two_levels", "wide_encoder"],
)
def test_there_and_back(options: dict[str, Any], tmp_path: Path) -> None:
    """In double precision but for a few constants in single; images of two sizes."""
    ours = small_d_fine(backbone=hgnet(options.pop("levels", 3)), **options)
    theirs = read_back(ours, tmp_path / "ours")
    check_the_way_back(ours, theirs, tmp_path / "theirs")
    ours, theirs = ours.double(), theirs.double()
    for size in ((96, 128), (160, 96)):
        check_the_same(ours, theirs, size, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_size(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = resolved(compose([f"detector={name}", "~experiment", "backbone.weights=null"]))
    ours = build_model(plain, Classes.contiguous({index: str(index) for index in range(80)}), pretrained=False).eval()
    decoder = {key: value.clone() for key, value in ours.decoder.named_buffers(recurse=False)}
    give_values_that_matter(ours)
    ours.decoder.load_state_dict(decoder, strict=False)
    assert detector_of(config_of(ours)) == name
    theirs = read_back(ours, tmp_path / "ours", classes=80)
    check_the_way_back(ours, theirs, tmp_path / "theirs")
    ours, theirs = ours.double(), theirs.double()  # in single precision some of 300 proposals change places
    for size in ((320, 320), (256, 384)):
        check_the_same(ours, theirs, size, 1e-5)


def test_tied_heads_are_those_of_the_first_layer() -> None:
    """Files that were saved with heads of all layers tied have them once, inside of the decoder or outside."""
    model = small_d_fine(backbone=hgnet())
    state = to_theirs(model.state_dict())
    heads = {name for name in state if re.match(r"(model\.decoder\.)?(class|bbox)_embed\.", name)}
    for inside in (True, False):
        first = {name for name in heads if name.startswith("model.decoder.") == inside and "_embed.0." in name}
        kept = {name: tensor for name, tensor in state.items() if name not in heads or name in first}
        ours = to_ours(kept)
        assert ours.keys() == {name for name in model.state_dict() if not name.endswith(COUNTER)}
        assert torch.equal(ours["class_head.2.weight"], model.state_dict()["class_head.0.weight"])
        assert torch.equal(ours["box_head.1.layers.2.bias"], model.state_dict()["box_head.0.layers.2.bias"])


# Read in the authors' repository.
AUTHORS_NAMES = {
    "backbone.stem.stem2a.conv.weight": "backbone.body.stem.stem2a.conv.weight",
    "backbone.stages.2.blocks.1.layers.0.conv2.bn.bias": "backbone.body.stages_2.blocks.1.layers.0.conv2.bn.bias",
    "backbone.stages.0.blocks.0.aggregation.1.lab.scale": "backbone.body.stages_0.blocks.0.aggregation.1.lab.scale",
    "encoder.input_proj.2.norm.weight": "neck.projections.2.1.weight",
    "encoder.encoder.0.layers.0.self_attn.in_proj_weight": "encoder.layers.0.self_attn.in_proj_weight",
    "encoder.fpn_blocks.1.cv2.0.bottlenecks.0.conv2.norm.bias": "encoder.top_down.1.stages.0.0.blocks.0.narrow.1.bias",
    "encoder.pan_blocks.0.cv3.1.norm.bias": "encoder.bottom_up.0.stages.1.1.1.bias",
    "encoder.downsample_convs.1.0.cv2.conv.weight": "encoder.downsampling.1.1.0.weight",
    "decoder.enc_output.proj.weight": "queries.token_head.0.weight",
    "decoder.query_pos_head.layers.1.bias": "queries.position.mlp.layers.1.bias",
    "decoder.decoder.layers.2.gateway.gate.weight": "decoder.layers.2.gate.linear.weight",
    "decoder.decoder.layers.2.norm3.bias": "decoder.layers.2.norm2.bias",
    "decoder.decoder.lqe_layers.1.reg_conf.layers.1.weight": "decoder.quality.1.mlp.layers.1.weight",
    "decoder.pre_bbox_head.layers.0.weight": "decoder.preliminary.layers.0.weight",
    "decoder.dec_score_head.1.bias": "class_head.1.bias",
    "decoder.dec_bbox_head.2.layers.2.weight": "box_head.2.layers.2.weight",
}


def test_the_authors_files() -> None:
    """Theirs have bins twice, and some constants; DEIM's have the same names."""
    model = small_d_fine(backbone=hgnet(), activation="silu", encoder_width=48, curvature=0.125)
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith(COUNTER)}
    names = {name: Renaming(AUTHORS).theirs(name) for name in own}
    assert {theirs: ours for ours, theirs in names.items() if theirs in AUTHORS_NAMES} == AUTHORS_NAMES
    state = {theirs: own[name] for name, theirs in names.items() if theirs is not None}
    state["decoder.reg_scale"] = state["decoder.decoder.reg_scale"] = torch.tensor([8.0])
    state |= {f"decoder.{name}": torch.zeros(3) for name in ("anchors", "valid_mask", "decoder.up")}
    state |= {"decoder.decoder.layers.0.cross_attn.num_points_scale": torch.zeros(12)}
    found = to_ours(state)
    assert found.keys() == own.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in own.items())


def test_what_does_not_fit_is_said() -> None:
    model = small_d_fine(backbone=hgnet())
    with pytest.raises(UserError, match=r"file: model\.decoder\.other is no weight of D-FINE"):
        to_ours({"model.decoder.other": torch.zeros(1)}, "file")
    with pytest.raises(UserError, match=r"file: .*self_attn\.k_proj\.bias is missing"):
        to_ours({"model.encoder.encoder.0.layers.0.self_attn.q_proj.bias": torch.zeros(1)}, "file")
    with pytest.raises(UserError, match=r"file: D-FINE has no place for mask_head\.weight"):
        to_theirs({**model.state_dict(), "mask_head.weight": torch.zeros(1)}, "file")
    with pytest.raises(UserError, match=r"transformers has no silu in D-FINE's heads"):
        config_of(small_d_fine(backbone=hgnet(), activation="silu"))
    with pytest.raises(UserError, match=r"D-FINE's layout is for detector=d_fine_… only"):
        config_of(small_d_fine())
    assert detector_of({"model_type": "detr"}) is None
    assert detector_of({"model_type": "d_fine", "decoder_layers": 5}) is None
