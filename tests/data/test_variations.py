"""What varies from batch to batch: a function of the seed and of where in the run a batch is, for any processes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from coco_example import HEIGHT, WIDTH
from test_loader import same, sample, splits  # noqa: F401 - a fixture

from detr.assembly import build_variations
from detr.config import check, compose
from detr.data.loader import train_loader
from detr.data.mixing import DenseMixing
from detr.data.moment import when
from detr.data.transforms import ShrinkLongSide, detr_train, light_train, rt_detr_train, square_train
from detr.data.variations import Growing, MultiScale, Variations
from detr.errors import UserError
from detr.structures import Batch, Sample

SCALES = [0.5, 1, 1.6, 2.4]  # of 40 × 30: 32, 40, 64 and 96 pixels wide
BOTH = Variations(mixing=DenseMixing(), multi_scale=MultiScale(scales=SCALES), seed=5)


@pytest.fixture
def images(splits: Any) -> Any:  # noqa: F811
    """Seven of 40 × 30, augmented."""
    return splits.split("train", transform=light_train(40), seed=3)


def batches(
    images: Any, variations: Variations | None, *, workers: int = 0, part: float = 0, **more: Any
) -> list[Batch]:
    loader = train_loader(images, batch_size=2, num_workers=workers, seed=3, variations=variations, **more)
    loader.set_epoch(1, more.get("first", 0), lambda batch: part)
    return list(loader)


def test_workers_change_nothing_here_either(images: Any) -> None:
    alone, workers = batches(images, BOTH), batches(images, BOTH, workers=2)
    assert len(alone) == len(workers) == 3
    assert all(map(same, alone, workers))
    assert not any(map(same, alone, batches(images, None)))
    other = Variations(mixing=BOTH.mixing, multi_scale=BOTH.multi_scale, seed=4)
    assert not all(map(same, alone, batches(images, other)))


def test_an_epoch_entered_in_the_middle_goes_on_as_it_would_have(images: Any) -> None:
    loader = train_loader(images, batch_size=2, num_workers=0, seed=3, variations=BOTH)
    loader.set_epoch(5)
    whole = list(loader)
    loader.set_epoch(5, first_batch=1)
    assert all(map(same, whole[1:], list(loader)))


def test_two_processes_see_what_one_sees(images: Any) -> None:
    """The same images, and all of a step at one scale."""
    alone = train_loader(images, batch_size=4, num_workers=0, seed=3, variations=BOTH)
    shares = [
        train_loader(images, batch_size=2, num_workers=0, seed=3, variations=BOTH, share=(rank, 2)) for rank in (0, 1)
    ]
    sizes = set()
    for epoch in range(20):
        for each in (alone, *shares):
            each.set_epoch(epoch)
        for whole, first, second in zip(alone, *shares, strict=True):
            assert torch.equal(whole.images, torch.cat([first.images, second.images]))
            assert torch.equal(whole.targets.boxes, torch.cat([first.targets.boxes, second.targets.boxes]))
            assert len({tuple(size) for size in whole.sizes.tolist()}) == 1
            sizes.add(whole.images.shape[-1])
    assert sizes == {32, WIDTH, 64, 96}


def test_it_ends_bit_for_bit(images: Any) -> None:
    """Behind both ends, and with a chance of 0, batches are those of the augmentation alone."""
    plain = batches(images, None)
    assert all(map(same, plain, batches(images, BOTH, part=0.85)))
    never = Variations(DenseMixing(mosaic=0, mixup=0, copy_blend=0), MultiScale(scales=[1]))
    assert all(map(same, plain, batches(images, never)))
    later = batches(images, BOTH, part=0.84)
    assert not all(map(same, plain, later))


@pytest.mark.parametrize("workers", [0, 1])
def test_strong_augmentation_ends(splits: Any, workers: int) -> None:  # noqa: F811
    """Images are what they are without an end, until it comes, and only flipped after it; the order stays."""

    def seen(until: float, part: float) -> list[Batch]:
        images = splits.split("train", transform=light_train(40, until), seed=3)
        return batches(images, None, workers=workers, part=part)

    to_the_end, early, late = seen(1.0, 0.99), seen(0.5, 0.49), seen(0.5, 0.5)
    assert all(map(same, to_the_end, early))
    assert not any(map(same, to_the_end, late))
    assert [each.files for each in late] == [each.files for each in early]
    plain = {index: splits.split("train", transform=ShrinkLongSide(40))[index].image for index in range(7)}
    for batch in late:
        for image, file in zip(batch.images, batch.files, strict=True):
            index = splits.split("train", transform=ShrinkLongSide(40)).files.index(file)
            assert torch.equal(image, plain[index]) or torch.equal(image.flip(-1), plain[index])


@pytest.mark.parametrize(
    "build",
    [
        lambda until: detr_train([24], 40, until),
        lambda until: square_train([32], until=until),
        lambda until: rt_detr_train(32, until),
    ],
)
def test_pipelines_end_in_what_is_not_strong(build: Any, splits: Any) -> None:  # noqa: F811
    """After it, two epochs differ by a flip at most; before it, by more."""
    images = splits.split("train", transform=build(0.5), seed=3)

    def of_epoch(epoch: int, part: float) -> list[torch.Tensor]:
        with when(part):
            return [images[epoch, index].image for index in range(7)]

    def alike(part: float) -> list[bool]:
        pairs = [*zip(of_epoch(0, part), of_epoch(1, part), strict=True)]
        return [torch.equal(one, other) or torch.equal(one, other.flip(-1)) for one, other in pairs]

    assert all(alike(0.5))
    assert not all(alike(0.0))


def test_an_end_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"until: expected a number from 0 to 1, got 1\.5"):
        rt_detr_train(32, until=1.5)


def test_each_batch_knows_its_part_of_the_run(images: Any) -> None:
    """A loader reads ahead: what counts is the batch that an image is in."""
    only_scale = Variations(multi_scale=MultiScale(scales=[2.4], stop_at=0.5))
    for workers in (0, 2):
        loader = train_loader(images, batch_size=2, num_workers=workers, seed=3, variations=only_scale)
        loader.set_epoch(0, part=lambda batch: batch / 3)
        assert [batch.images.shape[-1] for batch in loader] == [96, 96, WIDTH]


def test_crowded_images_stay_unmixed(images: Any) -> None:
    mixing = DenseMixing(mosaic=1, mixup=0, copy_blend=0)
    plain, dense = batches(images, None), batches(images, Variations(mixing))
    limit = int(max(max(batch.targets.counts) for batch in dense)) - 1
    some = batches(images, Variations(mixing, max_objects=limit))
    for count, was, now in zip(
        *([c for b in each for c in b.targets.counts] for each in (dense, plain, some)), strict=True
    ):
        assert now == (was if count > limit else count)


def test_the_first_images_are_those_of_the_first_batches(images: Any) -> None:
    loader = train_loader(images, batch_size=2, num_workers=0, seed=3, variations=BOTH)
    first, *_ = loader
    found = list(loader.first(2))
    assert torch.equal(torch.stack([each.image for each in found]), first.images)


def test_a_rehearsal_sees_all_parts_of_a_run(images: Any) -> None:
    """Else steps would be timed that are slower than most."""
    loader = train_loader(images, batch_size=2, num_workers=0, seed=3)
    parts = []
    for epoch, _ in zip(range(20), loader.epochs(), strict=False):
        del epoch
        parts += [loader.sampler.part(batch) for batch in range(3)]
    assert 0.4 < np.mean([part < 0.5 for part in parts]) < 0.6


@pytest.mark.parametrize(("divisor", "side", "expected"), [
    (1, 640, [480, 512, 544, 576, 608, *[640] * 3, 672, 704, 736, 768, 800]),  # RT-DETR's list
    (32, 384, [288, 320, 320, 352, 352, *[384] * 3, 416, 416, 448, 448, 480]),
    (56, 560, [448, 448, 448, 504, 560, *[560] * 3, 560, 616, 672, 672, 672]),  # 56 is the nearest to 32
])  # fmt: skip
def test_sizes_of_squares(divisor: int, side: int, expected: list[int]) -> None:
    values, _ = check(compose(["augmentation/multi_scale=quarter", "~experiment"]))
    scales = values["augmentation"]["multi_scale"]["scales"]
    square = sample(side, side, 2)
    found = [MultiScale(scales=[s])(square, 0, np.random.default_rng(0), divisor=divisor).image.shape for s in scales]
    assert [height for _, height, _ in found] == [width for _, _, width in found] == expected


def test_every_scale_is_drawn_as_often_as_it_is_listed() -> None:
    multi_scale, square = MultiScale(scales=[0.5, 1, 1]), sample(64, 64, 1)
    sides = Counter(multi_scale(square, 0, np.random.default_rng(seed)).image.shape[-1] for seed in range(600))
    assert sides.keys() == {32, 64}
    assert sides[32] / 600 == pytest.approx(1 / 3, abs=0.06)


def test_what_is_resized() -> None:
    """Pixels and masks by the same factor; boxes are relative."""
    image = sample(HEIGHT, WIDTH, 1)
    image.image[:] = 0
    image.image[:, 10:20, 20:40] = 200
    image.masks = image.image[:1] > 0
    result = MultiScale(scales=[1.6])(image, 0, np.random.default_rng(0))
    assert result.image.shape == (3, 48, 64)
    assert result.masks is not None
    assert result.masks.dtype == torch.bool
    assert result.masks.nonzero().amin(dim=0).tolist() == [0, 16, 32]
    assert result.masks.sum() == 16 * 32
    assert ((result.image[0] > 100) == result.masks[0]).float().mean() > 0.97
    assert result.boxes is image.boxes


def test_a_config_builds_them() -> None:
    values, _ = check(compose(["augmentation/mixing=dense", "augmentation/multi_scale=quarter", "seed=5"]))
    variations = build_variations(values, 9)
    assert isinstance(variations.mixing, DenseMixing)
    assert isinstance(variations.multi_scale, MultiScale)
    assert (variations.seed, variations.max_objects) == (5, 9)
    values, _ = check(compose(["augmentation/mixing=dense", "trainer.overfit_batches=1"]))
    assert build_variations(values, 9) == Variations()
    assert build_variations(check(compose([]))[0]) == Variations(seed=42)


class Doubled:
    """A mixing of one's own: twice as many objects, or no sample at all."""

    def __init__(self, *, wrong: bool = False) -> None:
        self.wrong = wrong

    def __call__(self, sample: Sample, partner: Any, part: float, draw: np.random.Generator) -> Any:
        other = partner()
        boxes, labels = torch.cat([sample.boxes, other.boxes]), torch.cat([sample.labels, other.labels])
        return boxes if self.wrong else replace(sample, boxes=boxes, labels=labels)


def test_a_mixing_of_ones_own(images: Any) -> None:
    words = [f"+augmentation.mixing._target_={__name__}.Doubled", "+augmentation.mixing.wrong=false"]
    variations = build_variations(check(compose(words))[0])
    assert isinstance(variations.mixing, Doubled)
    assert len(batches(images, variations)) == 3
    wrong = replace(variations, mixing=Doubled(wrong=True))
    with pytest.raises(UserError, match=r"augmentation\.mixing: .*Doubled .* gives a Tensor"):
        batches(images, wrong)


def test_no_scale_is_refused() -> None:
    for scales in ([], [0.5, 0]):
        with pytest.raises(ValueError, match="scales: expected at least one number above 0"):
            MultiScale(scales=scales)


def test_images_grow_evenly_to_their_size(images: Any) -> None:
    growing = Variations(multi_scale=Growing(smallest=0.5, stop_at=0.8))
    widths = [batches(images, growing, part=part)[0].images.shape[-1] for part in (0, 0.2, 0.4, 0.6, 0.79, 0.8, 1)]
    assert widths == [32, 32, 32, 32, 32, WIDTH, WIDTH], "multiples of 32, but the images themselves in the end"
    scale = growing.multi_scale.scale
    assert [scale(part, np.random.default_rng(0)) for part in (0, 0.4)] == [0.5, 0.75]
    assert all(map(same, batches(images, None), batches(images, growing, part=0.8)))
    with pytest.raises(ValueError, match="above 0, got"):
        Growing(smallest=0)
