"""Starting from other weights: what is carried over, adapted, initialised and skipped."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from builders import tiny_detr
from torch import Tensor

from detr.data.coco_categories import STUFF, THINGS, coco_classes
from detr.errors import UserError
from detr.models.denoising import Denoising
from detr.models.detr import DETR
from detr.models.position_embedding import LearnedPositionEmbedding
from detr.structures import Classes
from detr.weights.sources import Weights
from detr.weights.transfer import Transfer, start_from

OLD = Classes(("Cat", "dog", "bird"), (1, 2, 3))  # builders.CLASSES


def weights_of(model: DETR, classes: Classes | None = OLD) -> Weights:
    return Weights(copy.deepcopy(model.state_dict()), "old.pt", classes)


def start(model: DETR, weights: Weights, *names: str) -> tuple[Transfer, dict[str, Tensor], dict[str, Tensor]]:
    """What became of the weights, and the model's weights before and after."""
    before = copy.deepcopy(model.state_dict())
    transfer = start_from(model, weights, Classes(names, tuple(range(10, 10 + len(names)))))
    return transfer, before, model.state_dict()


def others(tensors: dict[str, Tensor], *left_out: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not any(each in name for each in left_out)}


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.mark.parametrize("queries", ["learned", "two_stage"])
@pytest.mark.parametrize("classification", ["softmax", "sigmoid"])
def test_class_rows_go_by_name(queries, classification) -> None:
    old = weights_of(tiny_detr(queries=queries, classification=classification, seed=1))
    new = tiny_detr(queries=queries, classification=classification, num_classes=4, seed=2)
    transfer, before, after = start(new, old, "dog", "zebra", "CAT", "emu")
    heads = [name for name in after if "class_head" in name]
    assert len(heads) == (4 if queries == "two_stage" else 2)
    for name in heads:
        assert torch.equal(after[name][0], old.tensors[name][1])
        assert torch.equal(after[name][2], old.tensors[name][0])
        assert torch.equal(after[name][[1, 3]], before[name][[1, 3]])
        if classification == "softmax":
            assert torch.equal(after[name][-1], old.tensors[name][-1])
    assert_same(others(after, "class_head"), others(old.tensors, "class_head"))
    text = "\n".join(transfer.lines())
    assert f"{len(after) - len(heads)} weights loaded as they are" in text
    assert "adapted: class_head: rows of 2 of 4 classes by name (dog, CAT)" in text
    assert ("no-object" in text) == (classification == "softmax")
    assert "initialized: class_head: rows of 2 of 4 classes (zebra, emu)" in text


def test_each_layers_own_head_goes_by_name() -> None:
    old = weights_of(tiny_detr(queries="anchors", heads_per_layer=True, seed=1))
    _, before, after = start(
        tiny_detr(queries="anchors", heads_per_layer=True, num_classes=2, seed=2), old, "emu", "dog"
    )
    for layer in range(2):
        name = f"class_head.{layer}.weight"
        assert torch.equal(after[name][1], old.tensors[name][1])
        assert torch.equal(after[name][0], before[name][0])


def test_proposals_of_no_class_stay_as_they_are() -> None:
    def proposing(**more: Any) -> DETR:
        return tiny_detr(queries="two_stage", class_agnostic=True, classification="sigmoid", **more)

    old = weights_of(proposing(seed=1))
    _, _, after = start(proposing(num_classes=2, seed=2), old, "emu", "dog")
    assert_same(others(after, "class_head"), others(old.tensors, "class_head"))
    assert torch.equal(after["queries.class_head.weight"], old.tensors["queries.class_head.weight"])
    assert torch.equal(after["class_head.weight"][1], old.tensors["class_head.weight"][1])


def test_denoising_may_come_and_go() -> None:
    """And starts anew for another number of classes."""
    old = weights_of(tiny_detr(queries="anchors", denoising=Denoising, seed=1))
    transfer, _, after = start(tiny_detr(queries="anchors", seed=2), old, *OLD.names)
    assert_same(after, others(old.tensors, "denoising"))
    assert "  skipped: denoising (1 weights), which the model does not have" in transfer.lines()
    transfer, before, after = start(tiny_detr(queries="anchors", denoising=Denoising, num_classes=5), old, *"abcde")
    assert torch.equal(after["denoising.embedding.weight"], before["denoising.embedding.weight"])
    assert "  initialized: denoising.embedding.weight, which is for other classes" in transfer.lines()
    new = weights_of(tiny_detr(queries="anchors", seed=3))
    transfer, *_ = start(tiny_detr(queries="anchors", denoising=Denoising, seed=2), new, *OLD.names)
    assert "  initialized: denoising (1 weights), which the weights do not have" in transfer.lines()


def test_the_same_classes_are_loaded_as_they_are() -> None:
    old = weights_of(tiny_detr(seed=1))
    transfer, _, after = start(tiny_detr(seed=2), old, *OLD.names)
    assert_same(after, old.tensors)
    assert transfer.lines() == [f"init_from=old.pt: {len(after)} weights loaded as they are"]


def test_classes_without_names() -> None:
    old = weights_of(tiny_detr(seed=1), None)
    transfer, _, after = start(tiny_detr(seed=2), old, "a", "b", "c")
    assert_same(after, old.tensors)
    assert "row by row" in transfer.lines()[1]
    transfer, before, after = start(tiny_detr(num_classes=5, seed=2), old, *"abcde")
    assert torch.equal(after["class_head.weight"][:-1], before["class_head.weight"][:-1])
    assert torch.equal(after["class_head.weight"][-1], old.tensors["class_head.weight"][-1])
    assert "do not name classes" in transfer.lines()[1]


@pytest.mark.parametrize(("before", "after"), [("softmax", "sigmoid"), ("sigmoid", "softmax")])
def test_another_kind_of_class_head_starts_afresh(before, after) -> None:
    old = weights_of(tiny_detr(classification=before, seed=1))
    model = tiny_detr(classification=after, seed=2)
    transfer, fresh, loaded = start(model, old, *OLD.names)
    assert torch.equal(loaded["class_head.weight"], fresh["class_head.weight"])
    assert f"for {before} in the weights" in "\n".join(transfer.lines())


@pytest.mark.parametrize("classes", [None, OLD])
def test_softmax_rows_are_not_read_as_sigmoids_of_one_class_more(classes: Classes | None) -> None:
    """The row of no-object would be the fourth class. A file whose kind is known need not be judged by its rows."""
    old = replace(weights_of(tiny_detr(seed=1), classes), classification="softmax")
    model = tiny_detr(num_classes=4, classification="sigmoid", seed=2)
    transfer, fresh, loaded = start(model, old, *"abcd")
    assert torch.equal(loaded["class_head.weight"], fresh["class_head.weight"])
    assert "for softmax in the weights" in "\n".join(transfer.lines())


@pytest.mark.parametrize("queries", ["learned", "anchors"])
@pytest.mark.parametrize("count", [4, 12])
def test_the_number_of_queries_may_change(queries, count: int) -> None:
    old = weights_of(tiny_detr(queries=queries, seed=1))  # 7
    new = tiny_detr(queries=queries, num_queries=count, seed=2)
    transfer, before, after = start(new, old, *OLD.names)
    tables = [name for name in after if name.startswith("queries.") and "position" not in name]
    assert len(tables) == (1 if queries == "learned" else 2)
    for name in tables:
        kept = min(count, 7)
        assert torch.equal(after[name][:kept], old.tensors[name][:kept])
        assert torch.equal(after[name][kept:], before[name][kept:])
        assert f"adapted: {name}: the first {kept} of 7 rows" in "\n".join(transfer.lines())
        assert (f"initialized: {name}: 5 further rows" in "\n".join(transfer.lines())) == (count == 12)


def learned(size: int, seed: int) -> DETR:
    model = tiny_detr(seed=seed)
    model.neck.position_embedding = LearnedPositionEmbedding(d_model=32, size=size)
    return model


def test_learned_positions_from_sines_are_initialized() -> None:
    old = weights_of(tiny_detr(seed=1))
    transfer, before, after = start(learned(50, 2), old, *OLD.names)
    assert_same(others(after, "position"), old.tensors)
    for name in ("row_embed", "col_embed"):
        key = f"neck.position_embedding.{name}.weight"
        assert torch.equal(after[key], before[key])
    assert "initialized: neck.position_embedding (2 weights)" in transfer.lines()[1]


def test_sines_from_learned_positions_skip_them() -> None:
    old = weights_of(learned(50, 1))
    transfer, _, after = start(tiny_detr(seed=2), old, *OLD.names)
    assert_same(after, others(old.tensors, "position"))
    assert "skipped: neck.position_embedding (2 weights)" in transfer.lines()[1]


def test_longer_tables_of_positions_keep_the_first_rows() -> None:
    old = weights_of(learned(50, 1))
    _, _, after = start(learned(60, 2), old, *OLD.names)
    key = "neck.position_embedding.row_embed.weight"
    assert torch.equal(after[key][:50], old.tensors[key])


def test_a_mask_head_comes_and_goes() -> None:
    plain, masked = tiny_detr(seed=1), tiny_detr(masks=True, seed=2)
    transfer, before, after = start(masked, weights_of(plain), *OLD.names)
    assert_same(others(after, "mask_head"), plain.state_dict())
    assert torch.equal(after["mask_head.output.weight"], before["mask_head.output.weight"])
    assert "initialized: mask_head" in transfer.lines()[1]
    transfer, _, _ = start(tiny_detr(seed=3), weights_of(masked), *OLD.names)
    assert "skipped: mask_head" in transfer.lines()[1]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ({"layers": 3}, {}, ["decoder.num_layers is 3 in it and 2 here"]),
        ({}, {"queries": "anchors"}, ["missing", "queries.content.weight"]),
        ({"queries": "two_stage"}, {}, ["not in the model", "neck.level_embedding"]),
    ],
)
def test_another_architecture_is_refused_and_nothing_loaded(old, new, words: list[str]) -> None:
    model = tiny_detr(**new, seed=2)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError) as caught:
        start(model, weights_of(tiny_detr(**old, seed=1)), "dog", "fish", "cat")
    for word in [*words, "old.pt"]:
        assert word in str(caught.value)
    assert_same(before, model.state_dict())


def test_weights_that_are_not_finite_are_refused() -> None:
    old = weights_of(tiny_detr(seed=1))
    old.tensors["box_head.layers.0.bias"][3] = torch.nan
    with pytest.raises(UserError, match=r"old\.pt: box_head\.layers\.0\.bias has values that are not finite"):
        start(tiny_detr(seed=2), old, "fish", "dog", "cat")


def test_holes_are_no_classes() -> None:
    """N/A of one identity map is not N/A of another."""
    old = replace(weights_of(tiny_detr(seed=1)), classes=Classes(("N/A", "dog", "N/A"), (0, 1, 2)))
    _, before, after = start(tiny_detr(seed=2), old, "N/A", "N/A", "dog")
    assert torch.equal(after["class_head.weight"][:2], before["class_head.weight"][:2])
    assert torch.equal(after["class_head.weight"][2], old.tensors["class_head.weight"][1])


def test_cocos_names() -> None:
    assert len(THINGS) == 80
    assert len(STUFF) == 53
    things, panoptic = coco_classes(91), coco_classes(250)
    assert things is not None
    assert panoptic is not None
    assert (things.num_classes, panoptic.num_classes) == (91, 250)
    assert panoptic.names[:91] == things.names
    assert (things.names[1], things.names[90], panoptic.names[200]) == ("person", "toothbrush", "rug-merged")
    assert coco_classes(20) is None


def test_cocos_names_are_torchvisions() -> None:
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    classes = coco_classes(91)
    assert classes is not None
    assert list(classes.names[1:]) == names[1:]
