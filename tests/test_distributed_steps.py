"""Two processes do what one does: losses, gradients and weights, step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from builders import tiny_detr
from command import ROOT
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torchrun import torchrun
from trainers import trainer
from training_steps import CASES, COUNTS, TWO_STAGE, images_of, my_share, steps

from detr.data.loader import collate
from detr.losses.matcher import HungarianMatcher
from detr.models.denoising import ContrastiveDenoising
from detr.structures import Group

GLOBAL = [name for name, case in CASES.items() if case.get("normalization", "global") == "global"]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What two processes found: case → rank → losses, gradients, weights."""
    folder = tmp_path_factory.mktemp("steps")
    done = torchrun(str(ROOT / "tests" / "training_steps.py"), str(folder))
    assert done.returncode == 0, done.stderr
    return {name: [torch.load(folder / f"{name}-{rank}.pt") for rank in range(2)] for name in CASES}


def difference(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The largest relative difference of any tensor, by its norm; what is next to nothing beside the whole, such as
    the gradient of a key's bias, which is zero but for rounding, counts by the whole."""
    assert mine.keys() == theirs.keys()
    whole = torch.stack([each.double().norm() for each in theirs.values()]).norm()
    return max(float((mine[n] - theirs[n]).norm() / theirs[n].norm().clamp(min=1e-6 * whole)) for n in mine)


@pytest.mark.parametrize("case", GLOBAL)
def test_one_process_and_two_are_the_same(case: str, together: dict[str, list[Any]], tmp_path: Path) -> None:
    """Batch 4 in one process, 2 in each of two, normalised globally: relative differences of at most 1e-5."""
    alone, (first, second) = steps(tmp_path, **CASES[case]), together[case]
    for step, expected in enumerate(alone["losses"]):
        found = {name: (first["losses"][step][name] + second["losses"][step][name]) / 2 for name in expected}
        assert difference(found, expected) <= 1e-5
    found_gradients = max(map(difference, first["gradients"], alone["gradients"]))
    found_weights = difference(first["weights"], alone["weights"])
    print(f"{case}: gradients {found_gradients:.1e}, weights {found_weights:.1e} after {len(alone['losses'])} steps")
    assert len(first["gradients"]) == CASES[case]["steps"]
    assert found_gradients <= 1e-5
    assert found_weights <= 1e-5
    assert all(torch.equal(second["weights"][name], value) for name, value in first["weights"].items())
    if case == "paper":
        start = tiny_detr(seed=0).double().state_dict()
        assert difference(first["weights"], {name: start[name] for name in first["weights"]}) > 1e-3  # it has moved


def test_masks_have_a_gradient_of_zero_where_there_are_no_objects(together: dict[str, list[Any]]) -> None:
    step = COUNTS.index([0, 0, 0, 0])
    for found in together["masks"]:
        of_masks = {name: value for name, value in found["gradients"][step].items() if name.startswith("mask_head.")}
        assert of_masks
        assert all(value.abs().max() == 0 for value in of_masks.values())
        assert any(value.abs().max() > 0 for value in found["gradients"][step - 1].values())


def test_normalized_by_process_each_loss_is_the_papers(together: dict[str, list[Any]]) -> None:
    """Cross-entropy: a mean over the process's own queries, weighted by class. Boxes: over the mean number of objects
    of a process, at least 1."""
    model = tiny_detr(seed=0).double().train()
    counts = COUNTS[0]
    for rank, images in enumerate((images_of(0)[:2], images_of(0)[2:])):
        batch = collate(images)
        predictions = model(batch.images, batch.padding)
        matches = HungarianMatcher()({"": Group(predictions)}, batch.targets)[""]
        found = together["process"][rank]["losses"][0]
        for layer in range(len(predictions.logits)):
            mine = matches.layer == layer
            image, query, target = matches.image[mine], matches.query[mine], matches.target[mine]
            labels = torch.full(predictions.logits.shape[1:3], 3)
            labels[image, query] = batch.targets.labels[target]
            weights = torch.tensor([1.0, 1.0, 1.0, 0.1], dtype=torch.float64)
            expected = F.cross_entropy(predictions.logits[layer].flatten(0, 1), labels.flatten(), weights)
            torch.testing.assert_close(found["class"][layer], expected.detach())
            boxes = (predictions.boxes[layer, image, query] - batch.targets.boxes[target]).abs().sum()
            torch.testing.assert_close(found["bbox"][layer], (5 * boxes / max(1, sum(counts) / 2)).detach())


def test_running_statistics_are_the_first_processs_in_every_step(together: dict[str, list[Any]]) -> None:
    """Each process moves them on by its own images, and starts the next step from those of the first."""
    first, second = (found["statistics"] for found in together["batch_norm"])
    assert first[0]
    for step in range(CASES["batch_norm"]["steps"]):
        assert all(torch.equal(second[step][name], value) for name, value in first[step].items())
        assert not any(torch.equal(first[step + 1][name], value) for name, value in first[step].items())
    assert not any(torch.equal(second[-1][name], value) for name, value in first[-1].items())


class Waits(TorchDispatchMode):
    """Counts operations that make the host wait for a GPU: they read a value, or their size depends on one."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        waits = name in ("_local_scalar_dense", "nonzero", "bincount", "masked_select", "is_nonzero", "_unique2")
        if name in ("index", "index_put_", "_index_put_impl_"):
            waits = any(each is not None and each.dtype == torch.bool for each in args[1])
        if waits:
            self.found.append(name)
        return function(*args, **(kwargs or {}))


class RacingSums(TorchDispatchMode):
    """Counts sums in single precision to which a CPU's threads add in any order: several addends at one place."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if name in ("index_put", "index_put_", "_index_put_impl_") and len(args) > 3 and args[3]:
            indices = torch.broadcast_tensors(*filter(torch.is_tensor, args[1]))
            places = torch.stack([each.flatten() for each in indices])
            if places.unique(dim=1).shape != places.shape:
                self.found.append(f"{name} into {tuple(args[0].shape)}")
        return function(*args, **(kwargs or {}))


class Lists(TorchFunctionMode):
    """Counts tensors that are made of lists: their copy to a GPU, from memory that is not pinned, is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        if name in ("tensor", "as_tensor", "new_tensor") and any(isinstance(each, list | tuple) for each in args):
            self.found.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("auxiliary", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="paper"),
        pytest.param({"masks": True}, id="masks"),
        pytest.param(TWO_STAGE, id="two_stage"),
        pytest.param({**TWO_STAGE, "transformer": "deformable"}, id="deformable"),
        pytest.param({**TWO_STAGE, "denoising": ContrastiveDenoising}, id="denoising"),
        pytest.param({**TWO_STAGE, "transformer": "d_fine", "denoising": ContrastiveDenoising}, id="d_fine"),
    ],
)
def test_a_step_does_not_wait_for_the_device(options: dict[str, Any], auxiliary: bool, tmp_path: Path) -> None:
    """But for the matcher, whose copy of the costs no operation shows on a CPU."""
    ours = trainer(tiny_detr(**options).train(), tmp_path, auxiliary=auxiliary)
    batches = my_share(0, masks=options.get("masks", False), accumulate=1)
    with Waits() as waits, Lists() as lists:
        ours.train_step(batches)
    assert waits.found + lists.found == []


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"masks": True}, id="masks"),
        pytest.param({**TWO_STAGE, "transformer": "deformable", "denoising": ContrastiveDenoising}, id="deformable"),
        pytest.param({"queries": "anchors", "transformer": "dab", "classification": "sigmoid"}, id="dab"),
        pytest.param({**TWO_STAGE, "transformer": "d_fine", "denoising": ContrastiveDenoising}, id="d_fine"),
    ],
)
def test_a_step_has_the_same_bits_whatever_else_the_machine_does(options: dict[str, Any], tmp_path: Path) -> None:
    ours = trainer(tiny_detr(**options).train(), tmp_path)
    batches = my_share(4, masks=options.get("masks", False), accumulate=1)
    with RacingSums() as races:
        ours.train_step(batches)
    assert races.found == []


def test_waits_are_seen() -> None:
    with Waits() as waits, Lists() as lists:
        torch.ones(2)[torch.ones(2) > 0].sum().item()
        torch.tensor([1.0, 2.0]).new_tensor([1.0, 2.0])
    assert waits.found == ["index", "_local_scalar_dense"]
    with RacingSums() as races:
        torch.ones(2, 3, requires_grad=True)[torch.tensor([0, 0])].sum().backward()
        torch.ones(2, 3, requires_grad=True)[torch.tensor([0, 1])].sum().backward()
    assert races.found == ["index_put into (2, 3)"]
    assert lists.found == ["tensor", "new_tensor"]
