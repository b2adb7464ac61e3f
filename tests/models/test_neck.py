"""Positions, padding and levels of the features that the encoder gets."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from builders import random_images
from torch import nn

from detr.errors import UserError
from detr.models.hybrid_encoder import HybridEncoder
from detr.models.layers import LayerConfig
from detr.models.neck import Neck
from detr.models.position_embedding import LearnedPositionEmbedding, SinePositionEmbedding
from detr.models.top_down import TopDownEncoder


def test_learned_positions_too_small() -> None:
    embedding = LearnedPositionEmbedding(d_model=8, size=5)
    assert embedding(torch.zeros(2, 5, 5, dtype=torch.bool)).shape == (2, 8, 5, 5)
    with pytest.raises(UserError, match=r"position_embedding\.size=6 or more") as error:
        embedding(torch.zeros(2, 3, 6, dtype=torch.bool))
    assert "\n" not in str(error.value)


def test_d_model_must_fit_sine_positions() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        SinePositionEmbedding(d_model=30)


@pytest.mark.parametrize(
    "build",
    [
        lambda: Neck(channels=[4], strides=[32], d_model=48, position_embedding=nn.Identity(), normalization="group"),
        lambda: TopDownEncoder(layer=LayerConfig(d_model=48, num_heads=4)),
    ],
)
def test_d_model_must_fit_group_norm(build: Callable[[], nn.Module]) -> None:
    with pytest.raises(ValueError, match=r"^transformer\.d_model: expected a multiple of 32 for group norm, got 48$"):
        build()


@pytest.mark.parametrize(("width", "groups"), [(128, 32), (96, 16), (32, 16)])
def test_what_is_narrow_in_fusion_blocks_has_fewer_groups(width: int, groups: int) -> None:
    layer = LayerConfig(d_model=width, num_heads=4)
    encoder = HybridEncoder(layer=layer, normalization="group", expansion=0.5)
    assert {each.num_groups for each in encoder.bottom_up[0].blocks.modules() if isinstance(each, nn.GroupNorm)} == {
        groups
    }


def test_padding_is_brought_to_feature_size() -> None:
    """A feature is padding where its top left pixel is (nearest, as in the official code)."""
    sine = SinePositionEmbedding(d_model=32)
    neck = Neck(channels=[4, 4], strides=[8, 32], d_model=32, position_embedding=sine, num_levels=None)
    padding = random_images([(40, 33), (64, 64)])[1]
    features = neck([torch.randn(2, 4, 8, 8), torch.randn(2, 4, 2, 2)], padding)
    assert torch.equal(features.padding[0], padding[:, ::8, ::8])
    assert torch.equal(features.padding[1], padding[:, ::32, ::32])


def test_level_embedding_tells_levels_apart() -> None:
    sine = SinePositionEmbedding(d_model=32)
    neck = Neck(
        channels=[4, 4],
        strides=[8, 32],
        d_model=32,
        position_embedding=sine,
        num_levels=2,
        normalization="group",
        level_embedding=True,
    )
    padding = torch.zeros(1, 16, 16, dtype=torch.bool)
    features = neck([torch.randn(1, 4, 2, 2), torch.randn(1, 4, 2, 2)], padding)
    difference = features.positions[1] - features.positions[0]
    expected = neck.level_embedding[1] - neck.level_embedding[0]  # type: ignore[index]
    torch.testing.assert_close(difference, expected[None, :, None, None].expand_as(difference))
    assert features.maps[0].mean().abs() < 1e-5  # group norm


def test_extra_levels_are_made_from_the_coarsest() -> None:
    """The first from the backbone's own features, each further one from the one before, at half the size."""
    torch.manual_seed(0)
    sine = SinePositionEmbedding(d_model=32)
    neck = Neck(
        channels=[4, 6],
        strides=[8, 16],
        d_model=32,
        position_embedding=sine,
        num_levels=3,
        extra_levels=2,
        normalization="group",
    )
    levels = [torch.randn(2, 4, 12, 10), torch.randn(2, 6, 6, 5)]
    padding = random_images([(40, 60), (96, 80)])[1]
    features = neck(levels, padding)
    assert neck.backbone_levels == 1
    assert features.strides == [16, 32, 64]
    assert [tuple(each.shape[-2:]) for each in features.maps] == [(6, 5), (3, 3), (2, 2)]
    assert [each.shape[-2:] for each in features.padding] == [each.shape[-2:] for each in features.maps]
    torch.testing.assert_close(features.maps[1], neck.extra[0](levels[-1]))
    torch.testing.assert_close(features.maps[2], neck.extra[1](features.maps[1]))


@pytest.mark.parametrize("numbers", [{"num_levels": 3}, {"num_levels": 2, "extra_levels": 2}, {"extra_levels": -1}])
def test_numbers_of_levels_must_fit(numbers: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="_levels"):
        Neck(
            channels=[4, 4],
            strides=[8, 32],
            d_model=32,
            position_embedding=SinePositionEmbedding(d_model=32),
            **numbers,
        )


def test_centered_positions_are_the_middles_of_features() -> None:
    """Four columns without padding: the longest wave of the first channel tells x = 1/8, 3/8, …; else 1/4, 2/4, …"""
    padding = torch.zeros(1, 1, 4, dtype=torch.bool)
    for centered, expected in ((True, [0.125, 0.375, 0.625, 0.875]), (False, [0.25, 0.5, 0.75, 1.0])):
        sines = SinePositionEmbedding(d_model=4, centered=centered)(padding)[0, 2, 0]
        torch.testing.assert_close(sines, (2 * torch.pi * torch.tensor(expected)).sin(), atol=1e-5, rtol=0)
