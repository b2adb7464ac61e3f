"""trainer.compile: the same steps, whatever is compiled; names stay."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch._inductor.cpp_builder as cpp
from builders import tiny_detr
from torch._inductor.exc import InvalidCxxCompiler
from trainers import samples, trainer

from detr.data.loader import collate
from detr.errors import UserError
from detr.models.backbone import ResNet, Timm
from detr.models.backbones.plain_vit import PlainViT
from detr.models.encoder import EncoderLayer
from detr.models.layers import LayerConfig
from detr.training.compilation import compile_regions, regions


def test_layers_and_stages_are_compiled_and_names_stay() -> None:
    model = tiny_detr()
    names = list(model.state_dict())
    compile_regions(model)
    assert list(model.state_dict()) == names
    for layer in (*model.encoder.layers, *model.decoder.layers):
        assert layer._compiled_call_impl is not None
    twin = copy.deepcopy(model)  # what an average is kept in
    assert all(each._compiled_call_impl is None for each in twin.modules())


def test_every_stage_of_a_backbone_is_a_region() -> None:
    model = tiny_detr()
    layers = len(model.encoder.layers) + len(model.decoder.layers)
    for backbone, stages in (
        (ResNet(name="resnet18", weights=None), 4),
        (Timm(name="resnet18", weights=None, trainable=[".*"]), 5),
        (PlainViT(depth=3, levels=[2], global_blocks=[]), 3),
    ):
        model.backbone = backbone
        assert len(regions(model)) == stages + layers


def test_without_a_compiler_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise InvalidCxxCompiler

    for found in (none, lambda: "/nowhere/g++"):
        monkeypatch.setattr(cpp, "get_cpp_compiler", found)
        with pytest.raises(UserError, match=r"trainer\.compile=true needs a C\+\+ compiler"):
            trainer(tiny_detr(), tmp_path, compile=True)


@pytest.mark.slow
def test_compiled_steps_are_the_same(tmp_path: Path) -> None:
    """Losses and weights after steps with images of two sizes, in fp32 without dropout."""
    found = []
    for compiled in (False, True):
        ours = trainer(tiny_detr().train(), tmp_path, lr=1e-3, compile=compiled, ema_decay=0.9)
        losses = [
            ours.train_step([collate(samples(counts, seed))]).total for seed, counts in enumerate([[2, 1], [1, 3, 2]])
        ]
        found.append((torch.stack(losses), ours.model.state_dict(), ours.ema.module.state_dict()))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_layer_of_the_paper_is_compiled_for_any_number_of_tokens() -> None:
    """Its products are large: eager ones go through convolutions, which are not compiled for sizes that vary."""
    torch.manual_seed(0)
    layer = EncoderLayer(LayerConfig(dropout=0.0))
    twin = copy.deepcopy(layer)
    layer.compile(dynamic=True)
    for tokens in (300, 221):
        x, positions = torch.randn(2, 2, tokens, 256)
        padding = torch.zeros(2, tokens, dtype=torch.bool)
        found = []
        for each in (layer, twin):
            y = each(x, positions, padding)
            found.append((y, torch.autograd.grad(y.square().mean(), list(each.parameters()))))
        torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-5)
