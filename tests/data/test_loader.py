"""Batches: padding, order, workers."""

import multiprocessing
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
import pytest
import torch
from coco_example import keep
from hypothesis import given
from hypothesis import strategies as st

from detr.data.loader import collate, eval_loader, train_loader
from detr.data.order import EpochSampler, InOrder
from detr.data.transforms import light_train
from detr.errors import UserError
from detr.structures import Batch, Sample


def sample(height: int, width: int, objects: int, image_id: int = 0) -> Sample:
    return Sample(
        image=torch.randint(1, 256, (3, height, width), dtype=torch.uint8),
        labels=torch.arange(objects),
        boxes=torch.rand(objects, 4),
        image_id=image_id,
        original_size=(2 * height, 2 * width),
        file=f"{image_id}.jpg",
    )


def same(a: Batch, b: Batch) -> bool:
    return (
        torch.equal(a.images, b.images)
        and torch.equal(a.padding, b.padding)
        and torch.equal(a.targets.boxes, b.targets.boxes)
        and torch.equal(a.targets.labels, b.targets.labels)
        and torch.equal(a.targets.image, b.targets.image)
        and a.image_ids == b.image_ids
        and a.files == b.files
    )


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(0, 4)), min_size=1, max_size=5))
def test_collate_pads_at_the_bottom_and_right(shapes):
    samples = [sample(h, w, n, image_id=7 * i) for i, (h, w, n) in enumerate(shapes)]
    batch = collate(samples)
    assert batch.images.shape[-2:] == (max(h for h, _, _ in shapes), max(w for _, w, _ in shapes))
    assert batch.images.dtype == torch.uint8
    for index, (h, w, n) in enumerate(shapes):
        assert torch.equal(batch.images[index, :, :h, :w], samples[index].image)
        assert (~batch.padding[index]).sum() == h * w
        assert not batch.padding[index, :h, :w].any()
        assert (batch.images[index].sum(0)[batch.padding[index]] == 0).all()
        own = batch.targets.image == index
        assert own.sum() == n
        assert torch.equal(batch.targets.boxes[own], samples[index].boxes)
        assert torch.equal(batch.targets.labels[own], samples[index].labels)
    assert batch.sizes.tolist() == [[h, w] for h, w, _ in shapes]
    assert batch.original_sizes.tolist() == [[2 * h, 2 * w] for h, w, _ in shapes]
    assert batch.image_ids == [7 * i for i in range(len(shapes))]


def test_collate_pads_masks():
    samples = [sample(8, 10, 2), sample(12, 6, 0), sample(5, 5, 1)]
    for each in samples:
        each.masks = torch.ones(len(each.labels), *each.image.shape[-2:], dtype=torch.bool)
    masks = collate(samples).targets.masks
    assert masks.shape == (3, 12, 10)
    assert masks.dtype == torch.bool
    assert masks.flatten(1).sum(1).tolist() == [80, 80, 25]
    assert masks[2, :5, :5].all()
    assert collate(samples[1:2]).targets.masks.shape == (0, 12, 6)


def test_collate_without_any_object():
    targets = collate([sample(4, 5, 0), sample(4, 5, 0)]).targets
    assert targets.boxes.shape == (0, 4)
    assert targets.labels.shape == targets.image.shape == (0,)


@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 2**63), st.integers(0, 1000))
def test_epochs_are_shuffled_without_repetition(size, batch_size, seed, epoch):
    batch_size = min(batch_size, size)
    sampler = EpochSampler(size, batch_size, seed)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert len(batches) == len(sampler) == size // batch_size
    assert all(len(batch) == batch_size for batch in batches)
    keys = [key for batch in batches for key in batch]
    assert len(set(keys)) == len(keys)
    assert {e for e, _ in keys} == {epoch}
    assert all(0 <= index < size for _, index in keys)
    assert list(sampler) == batches


def test_epochs_and_seeds_differ_and_cover_everything():
    sampler = EpochSampler(20, 3, seed=0)
    orders = []
    for epoch in range(6):
        sampler.set_epoch(epoch)
        orders.append(tuple(index for batch in sampler for _, index in batch))
    assert len(set(orders)) == 6
    assert set().union(*orders) == set(range(20))  # what an epoch drops, another one has
    assert [index for batch in EpochSampler(20, 3, seed=1) for _, index in batch] != list(orders[0])


def test_an_epoch_can_be_entered_in_the_middle():
    sampler = EpochSampler(20, 3, seed=0)
    sampler.set_epoch(4)
    whole = list(sampler)
    sampler.set_epoch(4, first_batch=2)
    assert list(sampler) == whole[2:]
    assert len(sampler) == len(whole) - 2
    sampler.set_epoch(5)
    assert len(sampler) == len(whole)


def test_no_epoch_without_a_step():
    with pytest.raises(ValueError, match="2 images do not make a batch of 3"):
        EpochSampler(2, 3, seed=0)


@pytest.fixture
def splits(coco, write):
    coco["images"] = [dict(coco["images"][0], id=10 * n, file_name=f"{n}.png") for n in range(1, 8)]
    return write(coco)


def test_workers_change_nothing(splits):
    """Neither batches nor their order, in two epochs and one that is entered in the middle."""
    dataset = splits.split("train", transform=light_train(32), seed=3)
    loaders = [train_loader(dataset, batch_size=2, num_workers=workers, seed=3) for workers in (0, 2)]
    seen = set()
    for epoch, first_batch in [(0, 0), (1, 0), (1, 1)]:
        batches = []
        for loader in loaders:
            loader.set_epoch(epoch, first_batch)
            torch.manual_seed(epoch + loader.num_workers)
            batches.append(list(loader))
        assert len(batches[0]) == len(batches[1]) == len(loaders[0]) == 3 - first_batch
        assert all(same(a, b) for a, b in zip(*batches, strict=True))
        seen.add(batches[0][-1].images.numpy().tobytes())
    assert len(seen) == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_sees_every_image_once_in_order(splits, workers):
    dataset = splits.split("train", transform=keep)
    loader = eval_loader(dataset, batch_size=3, num_workers=workers)
    for _ in range(2):
        batches = list(loader)
        assert [len(batch) for batch in batches] == [3, 3, 1]
        assert len(loader) == 3
        assert [i for batch in batches for i in batch.image_ids] == dataset.image_ids


def test_a_batch_larger_than_the_data_set(splits, caplog):
    dataset = splits.split("train", transform=keep)
    loader = train_loader(dataset, batch_size=16, num_workers=0, seed=0)
    assert "batch_size is 16, but there are only 7 training images" in caplog.text
    assert loader.batch_size == 7
    assert [len(batch) for batch in loader] == [7]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("make", [train_loader, eval_loader])
def test_a_broken_image_arrives_as_one_line(splits, workers, make):
    """Also from a worker, where DataLoader would wrap it into a traceback; and the loader still works afterwards."""
    dataset = splits.split("train", transform=keep)
    file = Path(dataset.files[4])
    content = file.read_bytes()
    file.write_bytes(content[:100])
    seed = {"seed": 0} if make is train_loader else {}
    loader = make(dataset, batch_size=7, num_workers=workers, **seed)
    with pytest.raises(UserError, match=r"5\.png: not a readable image") as caught:
        list(loader)
    assert multiprocessing.active_children() == []
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)
    file.write_bytes(content)
    assert len(list(loader)) == 1
    del caught, loader  # stops the new workers, for which the garbage collector would have to wait


def threads(image, target):
    target["labels"] = torch.tensor([torch.get_num_threads()])
    target["boxes"] = target["boxes"][:1]
    return image, target


def test_workers_use_one_thread(splits):
    dataset = splits.split("train", transform=threads).subset([0])
    (batch,) = eval_loader(dataset, batch_size=1, num_workers=1)
    assert batch.targets.labels.tolist() == [1]


@pytest.mark.parametrize(("name", "value"), [("batch_size", 0), ("num_workers", -1)])
def test_impossible_numbers(splits, name, value):
    numbers = {"batch_size": 1, "num_workers": 0, name: value}
    dataset = splits.split("train", transform=keep)
    with pytest.raises(UserError, match=rf"dataloader\.{name}: expected at least \d, got {value}"):
        train_loader(dataset, **numbers, seed=0)
    with pytest.raises(UserError, match=rf"dataloader\.{name}: expected at least \d, got {value}"):
        eval_loader(dataset, **numbers)


@pytest.mark.parametrize(("size", "batch_size", "processes"), [(10, 2, 2), (7, 1, 3), (13, 2, 3), (4, 2, 2)])
def test_processes_share_the_batches_of_one(size, batch_size, processes):
    """In each step, together and in order, the images that a single process sees with batches as large."""
    alone = list(EpochSampler(size, batch_size * processes, seed=3))
    shares = [list(EpochSampler(size, batch_size, 3, share=(rank, processes))) for rank in range(processes)]
    assert [list(chain(*batches)) for batches in zip(*shares, strict=True)] == alone


@pytest.mark.parametrize(("size", "batch_size", "processes"), [(13, 4, 2), (5, 4, 3), (1, 4, 2), (9, 1, 4)])
def test_evaluation_shares_whole_batches(size, batch_size, processes):
    """Each batch of a single process comes once, in turns; those without one take part in the last round, too."""
    alone = list(InOrder(size, batch_size))
    shares = [InOrder(size, batch_size, (rank, processes)) for rank in range(processes)]
    assert {share.rounds for share in shares} == {max(map(len, shares))}
    turns = zip_longest(*map(list, shares))
    assert [batch for turn in turns for batch in turn if batch is not None] == alone


def mixed_sizes(count: int) -> np.ndarray:
    """Sizes as COCO's: mostly 640 wide, a quarter upright."""
    drawn = np.random.default_rng(0)
    short = drawn.integers(360, 520, count)
    upright = drawn.random(count) < 0.25
    return np.where(
        upright[:, None], np.stack([np.full(count, 640), short], 1), np.stack([short, np.full(count, 640)], 1)
    )


@given(st.integers(4, 60), st.integers(1, 5), st.integers(1, 3), st.integers(0, 100))
def test_batches_by_shape_have_the_same_images(size, batch_size, processes, epoch):
    """Of an epoch, and of what its processes see together in a step; however it is entered."""
    batch_size = min(batch_size, size // processes)
    whole = EpochSampler(size, batch_size * processes, seed=1, sizes=mixed_sizes(size))
    plain = EpochSampler(size, batch_size * processes, seed=1)
    shared = [
        EpochSampler(size, batch_size, 1, (rank, processes), sizes=mixed_sizes(size)) for rank in range(processes)
    ]
    for each in (whole, plain, *shared):
        each.set_epoch(epoch)
    batches = list(whole)
    assert sorted(key for batch in batches for key in batch) == sorted(key for batch in plain for key in batch)
    assert batches == [list(chain(*parts)) for parts in zip(*shared, strict=True)]
    whole.set_epoch(epoch, first_batch=1)
    assert list(whole) == batches[1:]


def test_batches_by_shape_need_less_padding():
    sizes = mixed_sizes(4000)
    padded = {}
    for name, given_sizes in (("plain", None), ("by shape", sizes)):
        sampler = EpochSampler(4000, 8, seed=0, sizes=given_sizes)
        chosen = np.array([[index for _, index in batch] for batch in sampler])
        padded[name] = (sizes[chosen].max(axis=1).prod(axis=1) * 8).sum() / sizes[chosen].prod(axis=2).sum()
    assert padded["plain"] > 1.4
    assert padded["by shape"] < 1.06


def test_images_without_shapes_cannot_be_grouped(splits):
    class Own:
        def __init__(self, images):
            self.images = images

        def __len__(self):
            return len(self.images)

    images = splits.split("train", transform=light_train(32))
    assert train_loader(images, batch_size=2, num_workers=0, seed=0, group_by_shape=True).sampler.shapes is not None
    with pytest.raises(UserError, match=r"dataloader\.group_by_shape: the shapes"):
        train_loader(Own(images), batch_size=2, num_workers=0, seed=0, group_by_shape=True)
