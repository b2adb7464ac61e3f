"""Positions, padding and levels of the features that the encoder gets."""

from __future__ import annotations

import pytest
import torch
from builders import random_images

from detr.errors import UserError
from detr.models.neck import Neck
from detr.models.position_embedding import LearnedPositionEmbedding, SinePositionEmbedding


def test_learned_positions_too_small() -> None:
    embedding = LearnedPositionEmbedding(d_model=8, size=5)
    assert embedding(torch.zeros(2, 5, 5, dtype=torch.bool)).shape == (2, 8, 5, 5)
    with pytest.raises(UserError, match=r"position_embedding\.size=6 or more") as error:
        embedding(torch.zeros(2, 3, 6, dtype=torch.bool))
    assert "\n" not in str(error.value)


def test_d_model_must_fit_sine_positions() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        SinePositionEmbedding(d_model=30)


def test_padding_is_brought_to_feature_size() -> None:
    """A feature is padding where its top left pixel is (nearest, as in the official code)."""
    neck = Neck(channels=[4, 4], d_model=32, position_embedding=SinePositionEmbedding(d_model=32))
    padding = random_images([(40, 33), (64, 64)])[1]
    features = neck([torch.randn(2, 4, 8, 8), torch.randn(2, 4, 2, 2)], padding)
    assert torch.equal(features.padding[0], padding[:, ::8, ::8])
    assert torch.equal(features.padding[1], padding[:, ::32, ::32])


def test_level_embedding_tells_levels_apart() -> None:
    sine = SinePositionEmbedding(d_model=32)
    neck = Neck(channels=[4, 4], d_model=32, position_embedding=sine, normalization="group", level_embedding=True)
    padding = torch.zeros(1, 16, 16, dtype=torch.bool)
    features = neck([torch.randn(1, 4, 2, 2), torch.randn(1, 4, 2, 2)], padding)
    difference = features.positions[1] - features.positions[0]
    expected = neck.level_embedding[1] - neck.level_embedding[0]  # type: ignore[index]
    torch.testing.assert_close(difference, expected[None, :, None, None].expand_as(difference))
    assert features.maps[0].mean().abs() < 1e-5  # group norm
