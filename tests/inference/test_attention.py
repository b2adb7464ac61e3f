"""Attention: what is shown is what the model computed with, at the place in the image where it looked."""

from __future__ import annotations

import functools
import itertools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from random_checkpoints import write_checkpoint
from torch import nn

from detr import Detector
from detr.errors import UserError
from detr.inference.attention import Attention, Frame, Recorder, looks
from detr.inference.found import Found
from detr.models.deformable_attention import DeformableAttention, deformable_attention

SIZE = (96, 64)  # (width, height)
KINDS = {"boxes": (2, "points"), "paper": (6, "maps"), "conditional": (6, "maps"), "deformable": (6, "points")}


@functools.cache
def detector(kind: str) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return Detector.load(str(write_checkpoint(Path(folder, "best.pt"), kind)), device="cpu")


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    "kind", ["boxes", *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS if kind != "boxes")]
)
def test_where_each_query_looked(kind: str) -> None:
    """The answers are those without it; there is a look for each of them, in the last layer or in all."""
    layers, what = KINDS[kind]
    plain = detector(kind)(picture(), threshold=0, top_k=5)
    last, every = (detector(kind)(picture(), threshold=0, top_k=5, attention=each) for each in ("last", "all"))
    assert np.array_equal(last.boxes, plain.boxes)
    assert np.array_equal(every.scores, plain.scores)
    mine = getattr(every.attention.queries, what)
    assert mine.shape[:2] == (layers, 5)
    assert np.array_equal(getattr(last.attention.queries, what), mine[-1:])
    total = mine.sum(axis=(2, 3)) if what == "maps" else mine[..., 2].sum(axis=2)
    assert np.allclose(total, 1, atol=1e-4)
    assert (mine[..., 2] >= 0).all() if what == "points" else (mine >= 0).all()
    assert last.draw_attention().width == 4 * 448 + 3 * 4


def recorded(kind: str) -> tuple[Recorder, Any, Frame]:
    ours = detector(kind)
    batch = ours.prepared([picture()])
    with torch.inference_mode(), Recorder(ours.model) as recorder:
        ours.model(batch.images, batch.padding)
    return recorder, batch, Frame.of(batch, recorder.memory)


@torch.inference_mode()
def test_weights_of_attention_are_those_that_it_mixes_with() -> None:
    """By hand from the projections; of deformable attention, values mixed with them are the module's output."""
    recorder, _, frame = recorded("paper")
    module, arguments, keywords = recorder.cross[-1]
    assert isinstance(module, nn.MultiheadAttention)
    rows = torch.tensor([3, 1])
    width, heads = module.embed_dim, module.num_heads
    query, key = (
        nn.functional.linear(
            x, module.in_proj_weight[part * width :][:width], module.in_proj_bias[part * width :][:width]
        )
        .unflatten(-1, (heads, -1))
        .transpose(1, 2)
        for part, x in enumerate(arguments[:2])
    )
    products = query @ key.mT / (width / heads) ** 0.5
    products = products.masked_fill(keywords["key_padding_mask"][:, None, None], -torch.inf)
    expected = frame.maps(products.softmax(-1).mean(1)[0, rows])
    found = looks(recorder.cross[-1:], rows, frame, "decoder").maps
    assert found is not None
    assert np.allclose(found[0], expected, atol=1e-6)
    assert found.std() > 0

    module, (queries, locations, memory, tokens), _ = recorded("boxes")[0].cross[-1]
    assert isinstance(module, DeformableAttention)
    samples, weights = module.sampling(queries, locations, memory)
    values = module.value_proj(tokens).masked_fill(memory.padding[..., None], 0)[0]
    head, width = 2, values.shape[1] // module.num_heads
    mixed = torch.zeros(width)
    start = 0
    for level, (h, w) in enumerate(memory.shapes):
        grid = values[start : start + h * w, head * width : (head + 1) * width].view(h, w, width)
        start += h * w
        for point in (module.level_of == level).nonzero():
            x, y = (samples[0, 5, head, point[0]] * torch.tensor([w, h]) - 0.5).tolist()
            for row, column in itertools.product((int(y // 1), int(y // 1) + 1), (int(x // 1), int(x // 1) + 1)):
                if 0 <= row < h and 0 <= column < w:
                    near = (1 - abs(y - row)) * (1 - abs(x - column))
                    mixed += weights[0, 5, head, point[0]] * near * grid[row, column]
    by_head = values[None].unflatten(-1, (module.num_heads, -1))
    heads = deformable_attention(by_head, memory.shapes, samples, weights, module.points)
    assert torch.allclose(heads[0, 5, head * width : (head + 1) * width], mixed, atol=1e-4)
    assert torch.allclose(module.output_proj(heads), module(queries, locations, memory, tokens), atol=1e-5)


def test_a_look_lies_where_its_token_does() -> None:
    """From a point to the token, and from that token's weight back to a map of the image, in a padded batch."""
    frame = Frame([(8, 12), (4, 6)], part=(0.75, 0.5), size=(300, 100), grid=(4, 9))
    for point in ((10.0, 10.0), (290.0, 90.0), (150.0, 40.0)):
        fine, coarse = frame.tokens_at(point, all_levels=True).tolist()
        (alone,) = frame.tokens_at(point, all_levels=False).tolist()
        assert coarse == 96 + alone
        weights = torch.zeros(1, 120)
        weights[0, fine] = 1
        (found,) = frame.maps(weights)
        assert found.shape == (4, 9)
        row, column = np.unravel_index(found.argmax(), found.shape)
        assert abs((column + 0.5) / 9 * 300 - point[0]) <= 300 / 9
        assert abs((row + 0.5) / 4 * 100 - point[1]) <= 100 / 4
    everywhere = frame.maps(torch.ones(1, 24))
    assert np.allclose(everywhere, 1 / 36)


def test_points_are_pixels_of_the_image() -> None:
    frame = Frame([(8, 12)], part=(0.75, 0.5), size=(300, 100), grid=(4, 9))
    samples = torch.tensor([0.375, 0.25]).expand(2, 4, 3, 2)  # the middle of the image, in a padded one
    found = frame.points(samples, torch.full((2, 4, 3), 1 / 3))
    assert found.shape == (2, 12, 3)
    assert np.allclose(found, [150, 50, 1 / 12])


@pytest.mark.parametrize(
    "kind", ["boxes", *(pytest.param(each, marks=pytest.mark.slow) for each in ("paper", "deformable"))]
)
def test_where_the_encoder_looks_from_a_point(kind: str) -> None:
    found: Found = detector(kind)(picture(), threshold=1.0, attention="all", attention_point=(20, 50))
    attention = found.attention
    assert isinstance(attention, Attention)
    assert attention.encoder is not None
    assert len(found) == getattr(attention.queries, KINDS[kind][1]).shape[1] == 0
    shown = attention.encoder.maps if attention.encoder.maps is not None else attention.encoder.points
    assert shown is not None
    assert shown.shape[1] == 1
    total = shown[..., 2].sum(-1) if attention.encoder.points is not None else shown.sum(axis=(2, 3))
    assert np.allclose(total, 1, atol=1e-4)
    assert found.draw_attention().height > 200


def test_nothing_to_draw_is_said() -> None:
    found = detector("boxes")(picture(), threshold=0.0)
    with pytest.raises(UserError, match="there is no attention to draw"):
        found.draw_attention()
    nothing = detector("boxes")(picture(), threshold=1.0, attention="last")
    assert nothing.draw_attention().size == nothing.draw().size
