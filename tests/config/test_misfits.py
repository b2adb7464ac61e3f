"""Detectors by name with a part that does not fit: refused in one line, before anything is read."""

from __future__ import annotations

import pytest

from detr.assembly import check_model
from detr.config import check, compose, resolved
from detr.errors import UserError

DISTRIBUTIONS = "loss.terms.fgl needs distributions, which this transformer.decoder does not predict"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("detector=d_fine_n transformer/decoder=deformable", DISTRIBUTIONS),
        ("detector=tiny loss=d_fine", DISTRIBUTIONS),
        ("detector=rf_detr_nano transformer=detr", "works with queries that have positions alone, but these have anch"),
        ("detector=rf_detr_nano mask_head=fpn", "mask_head=fpn goes from the levels of the neck to finer ones"),
        ("detector=rt_detr_r18 queries=learned", "denoising gives anchors, but the queries have points"),
        ("detector=deformable_detr_r50 transformer/encoder=d_fine_x", "d_model is 384, but neck.d_model is 256"),
        ("detector=small transformer.encoder.layer.d_model=64", "d_model is 64, but neck.d_model is 128"),
        (
            "detector=small transformer.encoder.layer.d_model=64 neck.d_model=64",
            "gives tokens of width 64, but transformer.d_model is 128",
        ),
        ("detector=rt_detr_r18 neck=c2f", "num_levels: expected at least 2 levels to fuse, got 1"),
        ("detector=rt_detr_v2_r18 neck.num_levels=2", "num_points: expected 2 numbers, one for each level"),
        ("detector=d_fine_n transformer.activation=gelu", "activation: expected relu or silu for this decoder"),
        ("detector=detr_r50 matcher.position_power=0.5", "position_power is for independent sigmoids"),
    ],
)
def test_a_part_that_does_not_fit(words: str, complaint: str) -> None:
    config = compose(["~experiment", "backbone.weights=null", *words.split()])
    check(config)
    with pytest.raises(UserError) as error:
        check_model(resolved(config))
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)
