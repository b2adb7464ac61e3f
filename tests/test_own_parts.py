"""What each part of docs/extending.md claims of itself."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml
from builders import random_images, random_targets, tiny_detr
from extending import FILES, QUERIES, composed, detector, importable, write_files
from PIL import Image
from torchvision.tv_tensors import BoundingBoxes
from trainers import trainer

from detr.assembly import build_optimizer
from detr.config import build
from detr.errors import UserError
from detr.evaluation.coco import CocoEvaluator
from detr.losses.criterion import SetCriterion
from detr.losses.matched import Matched
from detr.losses.matcher import HungarianMatcher
from detr.models.box_coder import LogitBoxCoder
from detr.models.detr import DETR
from detr.models.groups import HybridMatching
from detr.models.layers import LayerConfig
from detr.models.queries import Surroundings
from detr.models.structures import Features, Memory
from detr.structures import Classes, Detections, Losses, Matches, Normalizer, Predictions, Targets

PLAIN = "backbone=plain"


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("mine")
    write_files(home)
    with importable(home):
        yield home


def mylab(name: str) -> ModuleType:
    return importlib.import_module(f"mylab.{name}")


def step(model: DETR, criterion: SetCriterion) -> tuple[Predictions, Losses]:
    """Outputs and losses of two images with three objects."""
    targets: Targets = random_targets([2, 1])
    images = random_images([(64, 96), (96, 64)])
    torch.manual_seed(1)
    predictions = model(*images, targets)
    return predictions, criterion(predictions, targets, Normalizer(objects=3, images=2))


DETECTOR = ("backbone", "position_embedding", "transformer", "queries", "matcher", "loss", "optimizer")
CONFIGS = [Path(name).relative_to("conf") for name in FILES if name.startswith("conf/")]
OPTIONS = [f"{path.parent}={path.stem}" for path in CONFIGS if path.parts[0] in DETECTOR]


@pytest.mark.parametrize("word", OPTIONS)
def test_each_part_alone_takes_two_steps(folder: Path, word: str) -> None:
    """On the quickstart, whose other parts are those that came along."""
    values = composed(folder, PLAIN, word)
    model, criterion = detector(values), build(values["loss"])
    optimizer = build_optimizer(values["optimizer"], model)
    for _ in range(2):
        _, losses = step(model, criterion)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
    learning = {name: each for name, each in model.named_parameters() if each.requires_grad}
    assert math.isfinite(losses.total.item())
    assert [name for name, each in learning.items() if each.grad is None] == []


def test_the_backbone_is_what_it_says() -> None:
    backbone = mylab("plain").PlainNet(width=8)
    levels = backbone(torch.rand(2, 3, 64, 96))
    assert [level.shape[1] for level in levels] == backbone.channels == [8, 16, 32]
    assert [64 // level.shape[2] for level in levels] == [96 // level.shape[3] for level in levels] == backbone.strides
    assert backbone.size_divisor == backbone.strides[-1]


def test_what_a_backbone_freezes_stays(folder: Path) -> None:
    """Parameters that ask for no gradient are no optimizer's."""
    values = composed(folder, PLAIN)
    model, criterion = detector(values), build(values["loss"])
    model.backbone.body[0].requires_grad_(False)
    optimizer = build_optimizer(values["optimizer"], model)
    before = {name: parameter.detach().clone() for name, parameter in model.backbone.named_parameters()}
    _, losses = step(model, criterion)
    losses.total.backward()
    optimizer.step()
    moved = {name for name, each in model.backbone.named_parameters() if not torch.equal(each, before[name])}
    assert moved == {name for name in before if not name.startswith("body.0")}


def test_experiments_set_nothing_of_ones_own_backbone(folder: Path) -> None:
    option = yaml.safe_load(FILES["conf/backbone/plain.yaml"])
    for experiment in ("quickstart", "small_data", "deformable_detr_r50"):
        assert composed(folder, PLAIN, f"experiment={experiment}")["backbone"] == option


def test_the_encoder_looks_at_each_level_alone() -> None:
    """Another coarse level changes no token of the fine one; without blocks tokens are the features."""
    torch.manual_seed(0)
    encoder = mylab("conv").ConvEncoder(layer=LayerConfig(d_model=32, num_heads=4, dim_feedforward=32), num_layers=1)
    maps = [torch.randn(1, 32, 16, 16), torch.randn(1, 32, 8, 8)]
    features = Features(maps, [each[:, 0] > 99 for each in maps], [torch.zeros_like(each) for each in maps], [8, 16])
    changed = replace(features, maps=[maps[0], maps[1] + 1])
    before, after = encoder(features), encoder(changed)
    assert before.shapes == [(16, 16), (8, 8)]
    same = (before.tokens == after.tokens).all(-1)[0]
    assert same[:256].all()
    assert not same[256:].any()
    none = mylab("conv").ConvEncoder(layer=LayerConfig(d_model=32, num_heads=4, dim_feedforward=32), num_layers=0)
    assert torch.equal(none(features).tokens, features.flatten().tokens)


def test_the_extra_goes_where_boxes_go(folder: Path) -> None:
    """Also to denoising queries and to those of several that answer for an object, which the proposals are not."""
    more = ["denoising=contrastive", "one_to_many=hybrid", "one_to_many.num_queries=10"]
    values = composed(folder, "transformer/decoder=uncertain", PLAIN, *more)
    model = detector(values)
    predictions, losses = step(model, build(values["loss"]))
    assert predictions.extras["log_scale"].shape == predictions.boxes.shape == (2, 2, QUERIES, 4)
    for name, group in predictions.groups.items():
        extras = group.outputs.extras
        assert name == "encoder" or extras["log_scale"].shape == group.outputs.boxes.shape
    assert predictions.groups.keys() == {"encoder", "one_to_many", "denoising"}
    names = {name for name in losses.terms if "box_nll" in name}
    assert names == {"box_nll", "one_to_many/box_nll", "denoising/box_nll"}
    losses.total.backward()
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None for parameter in learning)
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.decoder.scale_head.parameters())


def test_the_term_teaches_the_head(folder: Path) -> None:
    """With everything else frozen only this term gets better, in every layer."""
    values = composed(folder, "transformer/decoder=uncertain", PLAIN)
    model, criterion = detector(values), build(values["loss"])
    optimizer = torch.optim.Adam(model.decoder.scale_head.parameters(), lr=0.1)
    history = []
    for _ in range(10):
        _, losses = step(model, criterion)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        history.append({name: value.detach() for name, value in losses.terms.items()})
    assert (history[-1]["box_nll"] < history[0]["box_nll"] - 0.5).all()
    assert all(torch.equal(history[0][name], history[-1][name]) for name in history[0] if name != "box_nll")


def test_a_decoder_that_does_not_say_what_a_term_needs_is_told(folder: Path) -> None:
    values = composed(folder, PLAIN, "+loss.terms.box_nll._target_=mylab.uncertain.BoxNLL")
    with pytest.raises(
        UserError, match=r"^loss.terms.box_nll needs log_scale, which this transformer.decoder does not predict"
    ):
        step(detector(values), build(values["loss"]))


def test_queries_start_on_a_grid_and_stay_there() -> None:
    around = Surroundings(num_logits=4, sigmoid=True, one_to_many=HybridMatching(num_queries=7, copies=2, weight=1.0))
    queries = mylab("grid").GridQueries(
        surroundings=around, box_coder=LogitBoxCoder(), num_queries=9, d_model=32, side=0.1
    )
    memory = Memory(torch.zeros(2, 5, 32), torch.zeros(2, 5, 32), torch.zeros(2, 5) > 0, [(1, 5)], [16])
    found = queries.train()(memory)
    boxes = LogitBoxCoder().decode(found.reference)
    assert found.content.shape == (2, 16, 32)
    middles = (torch.arange(4) + 0.5) / 4
    torch.testing.assert_close(boxes[0, :, 0], middles.repeat(4))
    torch.testing.assert_close(boxes[1, :, 1], middles.repeat_interleave(4))
    torch.testing.assert_close(boxes[..., 2:], torch.full((2, 16, 2), 0.1))
    assert not found.reference.requires_grad
    assert len(queries.eval()(memory)) == 9


def test_padding_does_not_change_positions() -> None:
    padding = torch.ones(1, 6, 8, dtype=torch.bool)
    padding[:, :4, :5] = False
    positions = mylab("fourier").FourierPositions(d_model=16)
    alone = positions(padding[:, :4, :5])
    torch.testing.assert_close(positions(padding)[..., :4, :5], alone)
    assert len(alone.flatten(2)[0].T.unique(dim=0)) == 20  # another one in each place


def test_the_loss_is_that_of_a_laplace_distribution() -> None:
    boxes = torch.tensor([[0.9, 0.9, 0.1, 0.1], [0.4, 0.5, 0.2, 0.4]])  # each side of the second is off by 0.1
    extras = {"log_scale": torch.full((1, 1, 2, 4), math.log(0.2))}
    predictions = Predictions(torch.zeros(1, 1, 2, 3), boxes[None, None], extras)
    targets = Targets.of([torch.tensor([0])], [torch.tensor([[0.5, 0.5, 0.2, 0.2]])])
    first, second = torch.tensor([0]), torch.tensor([1])
    matches = Matches(layer=first, image=first, query=second, target=first, layers=1)
    loss = mylab("uncertain").BoxNLL()(Matched(predictions, targets, matches, Normalizer(objects=1, images=1), {}))
    assert loss.tolist() == pytest.approx([4 * (0.1 / 0.2 + math.log(2 * 0.2))])


@pytest.mark.parametrize("cost_centre", [0, 5])
def test_the_matcher_adds_the_distance_of_centres(cost_centre: float) -> None:
    """The nearer box wins against the one that overlaps more, if nearness is asked for."""
    boxes = torch.tensor([[0.5, 0.7, 0.2, 0.6], [0.5, 0.5, 0.02, 0.02]])
    predictions = Predictions(torch.zeros(1, 1, 2, 3), boxes[None, None])
    targets = Targets.of([torch.tensor([0])], [torch.tensor([[0.5, 0.5, 0.2, 0.2]])])
    costs = {"classification": "sigmoid", "cost_class": 1.0, "cost_bbox": 0.0, "cost_giou": 1.0}
    matcher = mylab("centre").CentreMatcher(cost_centre=cost_centre, **costs)
    more = matcher.costs(predictions, targets) - HungarianMatcher(**costs).costs(predictions, targets)
    torch.testing.assert_close(more.flatten(), cost_centre * torch.tensor([0.2, 0.0]))
    assert matcher(predictions.supervised(), targets)[""].query.tolist() == [1 if cost_centre else 0]


def test_colour_fades_and_boxes_stay() -> None:
    pixels = np.random.default_rng(0).integers(256, size=(6, 8, 3), dtype=np.uint8)
    boxes = BoundingBoxes(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), format="XYXY", canvas_size=(6, 8))
    fade, image = mylab("fading").FadeColour(1.0), Image.fromarray(pixels)
    torch.manual_seed(0)
    colour = 1 - torch.rand(()).item()
    torch.manual_seed(0)
    faded, target = fade(image, {"boxes": boxes, "labels": torch.tensor([1])})
    assert np.array_equal(faded, Image.blend(image.convert("L").convert("RGB"), image, colour))
    assert target["boxes"].tolist() == [[1, 2, 3, 4]]


def test_the_evaluator_counts() -> None:
    """Three images: counted right, one too few above the threshold, and none where there is none."""
    counts = {1: 2, 2: 2, 3: 0}
    shape = {"category_id": 1, "area": 25.0, "iscrowd": 0}
    annotations = [
        {"id": 10 * image + index, "image_id": image, "bbox": [10.0 * index, 0.0, 5.0, 5.0], **shape}
        for image, count in counts.items()
        for index in range(count)
    ]
    truth = {
        "images": [{"id": image, "height": 50, "width": 50} for image in counts],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "a"}],
    }
    given = {"backend": "hotcoco", "ground_truth": truth, "classes": Classes.contiguous({1: "a"})}
    own, coco = mylab("counting").CountingEvaluator(score=0.5, **given), CocoEvaluator(**given)
    corners = torch.tensor([[0.0, 0.0, 5.0, 5.0], [10.0, 0.0, 15.0, 5.0]])
    for evaluator in (own, coco):
        for image, scores in {1: [0.9, 0.5], 2: [0.9, 0.4], 3: [0.3, 0.2]}.items():
            detected = Detections(torch.tensor(scores), torch.zeros(2, dtype=torch.long), corners)
            evaluator.update([image], [detected])
    numbers = own.compute().named()
    assert numbers.pop("counted") == pytest.approx(2 / 3)
    assert numbers == coco.compute().named()
    assert {*own.metric_names} >= {*numbers, "counted"}


def test_lion_moves_every_weight_equally_far() -> None:
    """Two steps by hand (Chen et al. 2023, algorithm 2)."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    weight = model.weight.detach().clone()
    lion = mylab("lion").Lion(
        [{"params": [model.weight]}, {"params": [model.bias], "lr": 0.01}], lr=0.1, weight_decay=0.5
    )
    momentum = torch.zeros(2, 3)
    for _ in range(2):
        gradient = torch.randn(2, 3)
        model.weight.grad, model.bias.grad = gradient.clone(), torch.ones(2)
        lion.step()
        weight = weight - 0.1 * (torch.sign(0.9 * momentum + 0.1 * gradient) + 0.5 * weight)
        momentum = 0.99 * momentum + 0.01 * gradient
        torch.testing.assert_close(model.weight.detach(), weight)
    assert [group["lr"] for group in lion.param_groups] == [0.1, 0.01]


def test_dropout_follows_the_run(tmp_path: Path) -> None:
    ongoing = trainer(tiny_detr(dropout=0.5), tmp_path, max_steps=4)
    callback = mylab("dropout").FadingDropout(start=0.4)
    seen = []
    for ongoing.progress.step in range(5):
        callback.on_step_end(ongoing)
        seen.append({module.p for module in ongoing.model.modules() if isinstance(module, torch.nn.Dropout)})
    assert [len(each) for each in seen] == [1] * 5
    assert [each.pop() for each in seen] == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0])
