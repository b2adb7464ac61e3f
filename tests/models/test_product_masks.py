"""Masks as products: of every layer, group and proposal, as RF-DETR-Seg's authors have them."""

from __future__ import annotations

from typing import Any

import lw_detr_family
import pytest
import torch
from builders import random_images
from torch import Tensor
from torch.nn import functional as F

from detr.models.decoder import Decoder
from detr.models.detr import DETR
from detr.models.neck import LevelNeck
from detr.models.product_masks import ProductMaskHead
from detr.structures import MASK_QUERIES, STATES, Predictions


def detector() -> DETR:
    torch.manual_seed(0)
    model = lw_detr_family.detector("rf", masks=True).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def products(said: Predictions, layer: int) -> Tensor:
    """What the losses make of it: [B, Q, h, w]."""
    assert said.pixels is not None
    queries = said.extras[MASK_QUERIES][layer]
    return torch.einsum("bqd,bdhw->bqhw", queries[..., :-1], said.pixels[layer]) + queries[..., -1, None, None]


def formula(head: ProductMaskHead, states: Tensor, pixels: Tensor) -> Tensor:
    """The authors': project both, then multiply."""
    queries = head.queries(states + head.mlp(head.norm(states)))
    return torch.einsum("bchw,bnc->bnhw", head.pixels(pixels), queries) + head.bias


@torch.no_grad()
def test_every_layer_and_group_has_masks() -> None:
    """A layer's pixels pass through one block more than those of the layer before, the proposals' through none."""
    model = detector().train()
    seen: dict[type, Any] = {}
    for module in (model.neck, model.decoder):
        kind = LevelNeck if isinstance(module, LevelNeck) else Decoder
        module.register_forward_hook(lambda _, inputs, output, kind=kind: seen.update({kind: output}))
    images, padding = random_images([(96, 96), (96, 96)])
    said = model(images.double(), padding)
    hidden, head = seen[Decoder].hidden, model.mask_head
    assert isinstance(head, ProductMaskHead)
    pixels = F.interpolate(seen[LevelNeck].maps[0], size=(24, 24), mode="bilinear", align_corners=False)
    size, further = lw_detr_family.QUERIES, said.groups["one_to_many"]
    assert hidden.shape[2] == size * lw_detr_family.GROUPS
    for name in ("encoder", "encoder_further"):
        outputs = said.groups[name].outputs
        torch.testing.assert_close(products(outputs, 0), formula(head, outputs.extras[STATES][0], pixels))
    for layer, states in enumerate(hidden):
        pixels = head.blocks[layer](pixels)
        expected = formula(head, states, pixels)
        assert expected.std(1).mean() > 0.1  # queries differ
        torch.testing.assert_close(products(said, layer), expected[:, :size])
        torch.testing.assert_close(products(further.outputs, layer), expected[:, size:])
    assert said.masks is not None
    image, query = torch.tensor([1, 0]), torch.tensor([2, 4])
    torch.testing.assert_close(said.masks(image, query), expected[image, query])


@torch.no_grad()
def test_fewer_layers_have_fewer_blocks() -> None:
    """A detector that is cut behind its first layer gives that layer's masks."""
    model = detector().eval()
    images, padding = random_images([(96, 96)])
    whole = model(images.double(), padding)
    first = products(whole, 0)
    assert whole.select(layers=slice(0, 1)).pixels is not None
    assert len(whole.select(layers=slice(0, 1)).pixels) == 1
    model.decoder.eval_layers = 1
    cut = model(images.double(), padding)
    assert len(cut.boxes) == 1
    torch.testing.assert_close(products(cut, 0), first)


def test_more_blocks_than_layers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"mask_head\.num_blocks is 3, but there are 2 decoder layers"):
        lw_detr_family.detector("rf", masks=True, blocks=3)
