"""Files of the authors of today's families: told by their names, wherever in the file the weights are."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lw_detr_family
import pytest
import torch
from builders import CLASSES
from d_fine_example import hgnet, small_d_fine
from torch import Tensor

from detr.assembly import build_model
from detr.config import compose, resolved
from detr.config.compose import groups
from detr.errors import UserError
from detr.inference.recipes import config_of
from detr.models.detr import DETR
from detr.structures import Classes
from detr.weights.authors import classes_of
from detr.weights.layouts import d_fine, lw_detr, rf_detr, rt_detr
from detr.weights.layouts.blocks import State, changed, their_names
from detr.weights.layouts.lw_detr import their_groups
from detr.weights.renaming import COUNTER
from detr.weights.sources import Weights, load
from detr.weights.transfer import start_from

NAMES = Classes.contiguous({index: str(index) for index in range(CLASSES)})
LAYOUTS: dict[str, Any] = {"rt_detr": rt_detr, "d_fine": d_fine, "lw_detr": lw_detr, "rf_detr": rf_detr}


def detector(family: str) -> DETR:
    """A small one."""
    torch.manual_seed(0)
    if family in ("lw_detr", "rf_detr"):
        return lw_detr_family.detector("lw" if family == "lw_detr" else "rf")
    if family == "d_fine":
        return small_d_fine(backbone=hgnet(), num_classes=CLASSES)
    small = ["transformer.d_model=32", "transformer.num_heads=4", "transformer.dim_feedforward=48"]
    words = ["~experiment", "detector=rt_detr_r18", "backbone.weights=null", "queries.num_queries=6", *small]
    return build_model(resolved(compose(words)), NAMES, pretrained=False)


def authors_state(family: str, state: State) -> State:
    """What is in their files, with what follows from the config."""
    if family in ("lw_detr", "rf_detr"):
        return their_names(their_groups(state), LAYOUTS[family].AUTHORS, family, "here")
    ours = changed(dict(state), "decoder.curvature", Tensor.reciprocal)
    derived = {"decoder.anchors": torch.zeros(1, 3, 4), "decoder.valid_mask": torch.ones(1, 3, 1)}
    return derived | their_names(ours, LAYOUTS[family].AUTHORS, family, "here")


def other(state: State) -> State:
    return {name: tensor + 1 for name, tensor in state.items()}


WRAPPED: dict[str, tuple[str, Callable[[State], dict[str, Any]]]] = {
    "released": ("rt_detr", lambda state: {"ema": {"module": state, "updates": 7}}),
    "training": ("d_fine", lambda state: {"model": other(state), "ema": {"module": state}, "last_epoch": 71}),
    "average_apart": ("lw_detr", lambda state: {"model": other(state), "ema_model": state, "epoch": 3}),
    "arguments": ("rf_detr", lambda state: {"model": state, "args": Namespace(sa_nheads=4, encoder="dinov2")}),
}


@pytest.mark.parametrize(("family", "wrap"), WRAPPED.values(), ids=WRAPPED)
def test_a_file_of_the_authors(family: str, wrap: Callable[[State], dict[str, Any]], tmp_path: Path) -> None:
    """The average, where there is one; every weight as it was, and into a detector for other classes."""
    model = detector(family)
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith(COUNTER)}
    path = tmp_path / "theirs.pth"
    torch.save(wrap(authors_state(family, state)), path)
    weights = load(str(path))
    assert weights.tensors.keys() == state.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(weights.tensors[name], tensor, rtol=1e-6, atol=0)
    assert weights.classification == "sigmoid"
    assert weights.num_heads == (4 if family == "rf_detr" else None)
    transfer = start_from(model, weights, NAMES)
    assert transfer.adapted == ["class_head: the weights do not name classes; row by row, as they are"]


def test_unknown_names_in_a_file_of_the_authors(tmp_path: Path) -> None:
    state = authors_state("rf_detr", detector("rf_detr").state_dict())
    torch.save({"model": state | {"neck.new.weight": torch.zeros(1)}}, tmp_path / "theirs.pth")
    with pytest.raises(UserError, match=r"theirs\.pth: neck\.new\.weight is no weight of RF-DETR$"):
        load(str(tmp_path / "theirs.pth"))


def published() -> list[str]:
    """Detectors that the authors of these families have."""
    return [name for name in groups()["detector"] if name.startswith((*LAYOUTS, "deim")) and "_v2_" not in name]


SMALLEST = ("rt_detr_r18", "d_fine_n", "deim_n", "lw_detr_tiny", "rf_detr_nano")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in SMALLEST else [pytest.mark.slow]) for name in published()]
)
def test_which_detector_weights_are_of(name: str) -> None:
    with torch.device("meta"):
        plain = resolved(compose(["~experiment", f"detector={name}", "backbone.weights=null"]))
        state = build_model(plain, Classes.contiguous({0: "a"}), pretrained=False).state_dict()
    family = "d_fine" if name.startswith("deim") else next(each for each in LAYOUTS if name.startswith(each))
    same = [name] if family != "d_fine" else [f"{each}_{name[-1]}" for each in ("d_fine", "deim")]
    assert LAYOUTS[family].detectors_in(state) == same


def test_what_a_file_leaves_open_is_asked_for() -> None:
    """D-FINE's and DEIM's weights have the same names and shapes, and other activations."""
    several = Weights({}, "file.pth", classification="sigmoid", detectors=("d_fine_n", "deim_n"))
    with pytest.raises(UserError, match=r"file\.pth has no config .* such as detector=d_fine_n or detector=deim_n$"):
        config_of(several, [])


@pytest.mark.parametrize(("logits", "first"), [(80, "person"), (91, "N/A"), (7, None)])
def test_classes_by_their_number(logits: int, first: str | None) -> None:
    classes = classes_of(logits)
    assert (None if classes is None else classes.names[0]) == first


def test_which_version_of_rt_detr_a_file_is_of(tmp_path: Path) -> None:
    """Names, shapes and numbers are alike, but for what follows from the config, which the second version writes."""
    words = ["~experiment", "detector=rt_detr_r18", "backbone.weights=null"]
    model = build_model(resolved(compose(words)), NAMES, pretrained=False)
    state = authors_state("rt_detr", model.state_dict())
    second = state | {
        f"decoder.decoder.layers.{layer}.cross_attn.num_points_scale": torch.ones(12) for layer in range(3)
    }
    for name, content in {"rt_detr_r18": state, "rt_detr_v2_r18": second}.items():
        torch.save({"ema": {"module": content}}, tmp_path / "theirs.pth")
        assert load(str(tmp_path / "theirs.pth")).detectors == (name,)


@pytest.mark.parametrize("kind", [dict, Namespace, SimpleNamespace])
def test_classes_that_a_file_names(kind: Any, tmp_path: Path) -> None:
    """RF-DETR's arguments have them, whatever holds the arguments; the last sigmoid is of no class."""
    names = [f"name {index}" for index in range(CLASSES - 1)]
    state = authors_state("rf_detr", detector("rf_detr").state_dict()) | {"_kp_active_mask": torch.zeros(0, 0)}
    torch.save({"model": state, "args": kind(class_names=names)}, tmp_path / "weights.pt")
    weights = load(str(tmp_path / "weights.pt"))
    assert weights.classes is not None
    assert weights.classes.names == (*names, "N/A")


def test_weights_of_another_family_say_which() -> None:
    """In one line, with what differs."""
    theirs = detector("rf_detr")
    weights = Weights(
        theirs.state_dict(), "rf_detr_nano", classification="sigmoid", config=("detector=rf_detr_nano", "dataset=coco")
    )
    with pytest.raises(UserError, match=r"do not fit the model: .*; they are of detector=rf_detr_nano$") as error:
        start_from(detector("d_fine"), weights, NAMES)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700
