"""The mask head: equal to Hugging Face's, computed for the queries that are asked for only."""

from __future__ import annotations

import pytest
import torch
from builders import random_images, tiny_detr
from torch import Tensor

from detr.models.mask_head import MaskHead, relative_to_box
from detr.models.structures import Features, Memory
from detr.structures import MaskDecoder

B, Q, WIDTH, HEADS = 2, 5, 64, 8
CHANNELS = [24, 40, 72, 100]
SIZES = [(33, 23), (17, 12), (9, 6), (5, 3)]  # odd ones, as strided convolutions leave them


def scene(seed: int = 0) -> tuple[Tensor, Tensor, Memory, Features, list[Tensor]]:
    """Hidden states, boxes, memory, features and backbone levels; the second image is padded."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    height, width = SIZES[-1]
    padding = torch.zeros(B, height, width, dtype=torch.bool)
    padding[1, :, 2:] = True
    tokens, positions = (draw(B, height * width, WIDTH) for _ in range(2))
    memory = Memory(tokens, positions, padding.flatten(1), [SIZES[-1]], [32])
    features = Features([draw(B, WIDTH, height, width)], [padding], [draw(B, WIDTH, height, width)], [32])
    backbone = [draw(B, count, *size) for count, size in zip(CHANNELS, SIZES, strict=True)]
    return draw(B, Q, WIDTH), draw(B, Q, 4).sigmoid(), memory, features, backbone


def head(seed: int = 0, **changes: int) -> MaskHead:
    """One whose biases and norms matter."""
    torch.manual_seed(seed)
    built = MaskHead(**{"channels": CHANNELS, "num_levels": 1, "d_model": WIDTH, "num_heads": HEADS} | changes)
    for parameter in built.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, parameter.detach().mean().round().item(), 0.2)
    return built


def everything(decode: MaskDecoder, images: int = B, queries: int = Q) -> Tensor:
    """[B, Q, h, w]."""
    image, query = torch.meshgrid(torch.arange(images), torch.arange(queries), indexing="ij")
    return decode(image.flatten(), query.flatten()).unflatten(0, (images, queries))


def hugging_face_masks(
    ours: MaskHead, hidden: Tensor, boxes: Tensor, memory: Memory, features: Features, levels: list[Tensor]
) -> Tensor:
    """Of `DetrMHAttentionMap` and `DetrMaskHeadSmallConv` with the same weights."""
    from transformers.models.detr.modeling_detr import DetrMaskHeadSmallConv, DetrMHAttentionMap

    attention = DetrMHAttentionMap(WIDTH, HEADS)
    convolve = DetrMaskHeadSmallConv(WIDTH + HEADS, CHANNELS[-2::-1], WIDTH)
    attention.q_proj, attention.k_proj = ours.attention.query, ours.attention.key
    blocks = [convolve.conv1, convolve.conv2, *(stage.refine for stage in convolve.fpn_stages)]
    for block, convolution, norm in zip(blocks, ours.convolutions, ours.norms, strict=True):
        block.conv, block.norm = convolution, norm
    for stage, adapter in zip(convolve.fpn_stages, ours.adapters, strict=True):
        stage.fpn_adapter = adapter
    convolve.output_conv = ours.output
    height, width = memory.shapes[-1]
    blocked = memory.padding.view(B, 1, 1, height, width).float() * torch.finfo(torch.float32).min
    weights = attention(hidden, memory.tokens.mT.unflatten(-1, (height, width)), attention_mask=blocked)
    masks = convolve(features.maps[-1], weights, [levels[2], levels[1], levels[0]])
    return masks.view(B, Q, *SIZES[0])


@torch.no_grad()
def test_equals_hugging_face() -> None:
    ours, inputs = head(), scene()
    masks = everything(ours(*inputs))
    assert masks.std() > 0.1
    torch.testing.assert_close(masks, hugging_face_masks(ours, *inputs), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_query_does_not_depend_on_which_others_are_asked_for() -> None:
    decode = head()(*scene())
    whole = everything(decode)
    image, query = torch.tensor([1, 0, 1]), torch.tensor([4, 2, 0])
    torch.testing.assert_close(decode(image, query), whole[image, query], rtol=1e-5, atol=1e-6)
    assert decode(image[:0], query[:0]).shape == (0, *SIZES[0])


@torch.no_grad()
def test_what_lies_in_the_padding_is_not_attended_to() -> None:
    built, inputs = head(), scene()
    memory = inputs[2]
    before = everything(built(*inputs))
    memory.tokens[memory.padding] = 100.0
    torch.testing.assert_close(everything(built(*inputs)), before)


@torch.no_grad()
def test_the_box_is_seen_where_it_lies() -> None:
    """Tokens inside of the box are marked, and offsets are in units of it; without `box` it makes no difference."""
    centres = torch.tensor([[[0.25, 0.5], [0.4, 0.5], [0.9, 0.5]]])
    seen = relative_to_box(centres, torch.tensor([[0.3, 0.5, 0.4, 0.2]]))
    expected = torch.tensor([[[-0.125, 0.25, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 0.0]]])
    torch.testing.assert_close(seen, expected)
    for box in (False, True):
        hidden, boxes, *rest = scene()
        built = head(box=box)
        same = torch.allclose(everything(built(hidden, boxes, *rest)), everything(built(hidden, boxes / 2, *rest)))
        assert same != box


@pytest.mark.parametrize(("level", "stride"), [(0, 4), (-1, 4)])
def test_levels_to_start_from(level: int, stride: int) -> None:
    """Of a detector whose transformer reads three levels, any may carry the attention map."""
    model = tiny_detr(queries="two_stage", classification="sigmoid", masks=True)
    model.mask_head = MaskHead(channels=model.backbone.channels, num_levels=3, d_model=32, num_heads=4, level=level)
    assert len(model.mask_head.adapters) == (1 if level == 0 else 3)
    predictions = model(*random_images([(64, 96), (96, 64)]))
    assert predictions.masks is not None
    assert everything(predictions.masks, 2, 7).shape == (2, 7, 96 // stride, 96 // stride)


def test_refusals() -> None:
    with pytest.raises(
        ValueError, match="level: expected an index into the 1 backbone levels of the transformer, got 1"
    ):
        head(level=1)
    with pytest.raises(ValueError, match="d_model=64 is not a multiple of num_heads=7"):
        head(num_heads=7)


def test_mixed_precision_is_that_of_the_forward_pass() -> None:
    """The criterion, which asks for masks, has mixed precision turned off; the head's convolutions keep it."""
    model = tiny_detr(masks=True)
    images, padding = random_images([(64, 64)])
    with torch.autocast("cpu", torch.bfloat16):
        predictions = model(images, padding)
    kinds: list[torch.dtype] = []
    model.mask_head.output.register_forward_hook(lambda module, inputs, output: kinds.append(output.dtype))
    assert predictions.masks is not None
    masks = predictions.masks(torch.tensor([0]), torch.tensor([3]))
    assert kinds == [torch.bfloat16]
    assert masks.dtype == torch.float32
