"""Parts combine: every pair of these options of different groups is trained for a step, or refused in one line.

Queries that differ from these by their values, necks and mask heads are not among the pairs.
"""

from __future__ import annotations

import functools
import itertools
import random

import pytest
import torch
from builders import CLASSES, random_images, random_targets

from detr.assembly import build_model, check_model
from detr.config import build, check, compose, resolved
from detr.errors import UserError
from detr.structures import Classes, Normalizer

GROUPS = {
    "transformer": [
        "detr",
        "detr_pre_norm",
        "conditional",
        "dab",
        "deformable",
        "dino",
        "rt_detr",
        "top_down_anchor",
        "lw_detr",
    ],
    "box_coder": ["logit", "relative"],
    "queries": ["learned", "anchors", "two_stage", "grouped_two_stage"],
    "loss": ["detr", "focal", "varifocal", "ia_bce", "mal", "stable_dino", "align"],
    "position_embedding": ["sine", "learned"],
    "backbone": ["resnet18", "efficientnet_lite0"],
    "denoising": ["none", "dn", "contrastive"],
    "one_to_many": ["none", "hybrid", "group"],
}
ENCODERS = ["detr", "dab", "deformable", "hybrid", "hybrid_group_half", "top_down", "none", "d_fine"]
DECODERS = ["detr", "anchor", "conditional", "dab", "deformable", "lw_detr", "d_fine"]
SMALL = [
    "~experiment",
    "neck=multi_level",
    "backbone.weights=null",
    "backbone.levels=[-3,-2,-1]",
    "queries.num_queries=6",
    "transformer.d_model=32",
    "transformer.num_heads=4",
    "transformer.dim_feedforward=32",
    "transformer.decoder.num_layers=2",
    "transformer.encoder.num_layers=1",
    "matcher.cost_class=2",
]

REFINING = ("dab", "top_down_anchor")
CLASS_NAMES = Classes.contiguous({index: str(index) for index in range(CLASSES)})


def reason(choice: dict[str, str]) -> str | None:
    """What a combination is refused for; None: it has to work."""
    learned = choice["queries"] == "learned"  # no boxes
    if choice["transformer"] in ("detr", "detr_pre_norm") and not learned:
        return "works with queries that have positions alone, but these have anchors; use queries=learned"
    if choice["transformer"] == "conditional" and not learned:
        return "works with queries that have points, but these have anchors; use queries=learned"
    if choice["transformer"] in REFINING and learned:
        return "works with queries that have anchors, but these have positions alone; use queries=anchors or two_stage"
    if choice["denoising"] != "none" and learned:
        return "denoising gives anchors, but the queries have"
    return None


def pairs(choice: dict[str, str]) -> frozenset[frozenset[tuple[str, str]]]:
    return frozenset(frozenset(pair) for pair in itertools.combinations(choice.items(), 2))


@functools.cache
def combinations() -> list[dict[str, str]]:
    """Few that have every pair of options: in one that works, if there is any, else in one that is refused."""
    everything = [dict(zip(GROUPS, options, strict=True)) for options in itertools.product(*GROUPS.values())]
    random.Random(0).shuffle(everything)
    working = [choice for choice in everything if reason(choice) is None]
    found = covering(working, frozenset())
    return found + covering(everything, frozenset().union(*map(pairs, found)))


def covering(choices: list[dict[str, str]], covered: frozenset) -> list[dict[str, str]]:
    """Of the choices as many as it takes to have every pair that any of them has, greedily."""
    own = [pairs(choice) for choice in choices]
    missing = set().union(*own) - covered
    found = []
    for size in range(len(next(iter(own))), 0, -1):  # first those with most that is new
        for choice, its_pairs in zip(choices, own, strict=True):
            if len(its_pairs & missing) >= size:
                found.append(choice)
                missing -= its_pairs
    return found


def overrides(choice: dict[str, str]) -> list[str]:
    more = {
        "denoising": {"dn": ["denoising.groups=2"], "contrastive": ["denoising.num_queries=4"]},
        "one_to_many": {"hybrid": ["one_to_many.num_queries=9"], "group": ["one_to_many.groups=2"]},
    }
    own = [each for group, options in more.items() for each in options.get(choice[group], [])]
    return [*(f"{group}={option}" for group, option in choice.items()), *SMALL, *own]


QUICK = 24  # of the combinations; they come by how many new pairs they have


@pytest.mark.parametrize(
    "choice",
    [
        pytest.param(choice, marks=[pytest.mark.slow] if number >= QUICK else [], id="-".join(choice.values()))
        for number, choice in enumerate(combinations())
    ],
)
def test_a_combination(choice: dict[str, str]) -> None:
    refusal = reason(choice)
    if refusal is None:
        take_a_step(overrides(choice))
        return
    plain = resolved(compose(overrides(choice)))
    for refuse in (check_model, functools.partial(build_model, classes=CLASS_NAMES, pretrained=False)):
        with pytest.raises(UserError, match=refusal) as error:
            refuse(plain)
        assert "\n" not in str(error.value)


def take_a_step(words: list[str]) -> None:
    """A finite loss of two images, and finite gradients of all that is trained."""
    config = compose(words)
    check(config)
    plain = resolved(config)
    check_model(plain)
    torch.manual_seed(0)
    model, criterion = build_model(plain, CLASS_NAMES, pretrained=False).train(), build(plain["loss"], "loss")
    targets = random_targets([2, 1])
    losses = criterion(model(*random_images([(64, 96), (96, 64)]), targets), targets, Normalizer(objects=3, images=2))
    assert losses.total.isfinite()
    losses.total.backward()
    moved = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            moved.append(bool(parameter.grad.abs().max() > 0))
    assert sum(moved) > len(moved) / 2  # behind a layer that starts at zero there is none in the first step


@pytest.mark.slow
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_any_encoder_before_any_decoder(encoder: str, decoder: str) -> None:
    queries = "learned" if decoder in ("detr", "conditional") else "two_stage"
    parts = [f"transformer/encoder={encoder}", f"transformer/decoder={decoder}", f"queries={queries}"]
    take_a_step([*parts, "loss=focal", "backbone=resnet18", *SMALL])


@pytest.mark.parametrize(
    ("queries", "decoder"),
    [
        ("distinct", "anchor"),
        ("dab", "deformable"),
        *itertools.product(("deformable_two_stage", "dino"), ("anchor", "dab", "deformable")),
    ],
)
def test_any_anchors_before_any_decoder_of_anchors(queries: str, decoder: str) -> None:
    parts = ["transformer/encoder=top_down", f"transformer/decoder={decoder}", f"queries={queries}"]
    take_a_step([*parts, "loss=focal", "backbone=resnet18", *SMALL])


@pytest.mark.parametrize("encoder", ["detr", "dab", "deformable", "hybrid", "top_down"])
def test_no_parameter_waits_for_a_gradient_without_encoder_layers(encoder: str) -> None:
    """Positions that nobody reads do not learn: several processes would wait for their gradient."""
    parts = [f"transformer/encoder={encoder}", "transformer/decoder=deformable", "queries=two_stage"]
    words = [*parts, "position_embedding=learned", "loss=focal", "backbone=resnet18", *SMALL]
    take_a_step([*(word for word in words if "encoder.num_layers" not in word), "transformer.encoder.num_layers=0"])


def test_the_combinations_cover_every_pair() -> None:
    seen = frozenset().union(*map(pairs, combinations()))
    sizes = [len(options) for options in GROUPS.values()]
    assert len(seen) == sum(a * b for a, b in itertools.combinations(sizes, 2))
    assert sum(reason(choice) is None for choice in combinations()) > len(combinations()) / 3


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["neck.num_levels=2", "transformer.encoder.num_levels=3"], "transformer.encoder.num_levels is for 3 levels"),
        (["neck=deformable", "neck.extra_levels=0"], "num_levels is 4, but backbone.levels has 3"),
        (["neck.extra_levels=3"], "extra_levels: expected 0 to num_levels - 1"),
        (["transformer.decoder.eval_layers=3"], "eval_layers: expected 1 to num_layers=2"),
    ],
)
def test_levels_and_layers_must_fit(words: list[str], complaint: str) -> None:
    defaults = ["transformer=deformable", "queries=two_stage", "loss=focal", "backbone=resnet18", *SMALL]
    groups = {word.partition("=")[0] for word in words}
    config = compose([*(each for each in defaults if each.partition("=")[0] not in groups), *words])
    check(config)
    with pytest.raises(UserError) as error:
        build_model(resolved(config), CLASS_NAMES, pretrained=False)
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


def test_five_choices_at_once() -> None:
    """On top of the quickstart, as docs/family.md has it."""
    words = "transformer=deformable queries=two_stage denoising=contrastive loss=focal backbone=resnet18"
    take_a_step([*words.split(), "backbone.weights=null"])
