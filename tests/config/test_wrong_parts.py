"""Parts from outside that are wrong: one line that names the key and the file, and never a silent misreading."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command import TINY, only_error, run

MODULE = '''
import torch
from torch import nn

from detr.data.shapes.dataset import Shapes
from detr.evaluation.coco import CocoEvaluator
from detr.losses.matcher import HungarianMatcher
from detr.losses.terms import Term
from detr.models.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone
from detr.models.encoder import Encoder
from detr.models.hybrid_encoder import HybridEncoder
from detr.training.callbacks import Callback


class NoChannels(Backbone):
    def __init__(self, **others):
        super().__init__(IMAGENET_MEAN, IMAGENET_STD)


class NoBackbone(nn.Module):
    def __init__(self, **others):
        super().__init__()


class NoSuper(Backbone):
    def __init__(self, **others):
        self.layer = nn.Linear(1, 1)


class Pairs(Term):
    def forward(self, matched):
        predicted, wanted = matched.boxes()
        return (predicted - wanted).abs().sum(-1)


class Scalar(Term):
    def forward(self, matched):
        return super_sum(matched)


class Two(Term):
    def forward(self, matched, more):
        return matched.boxes()[0].sum()


class Broken(Term):
    def forward(self, matched):
        return matched.no_such_thing


def super_sum(matched):
    return matched.sum_by_layer((matched.boxes()[0]).sum(-1)).sum()


class TupleEncoder(HybridEncoder):
    def forward(self, features):
        return super().forward(features), 1


class NoSplit:
    def __init__(self, **others):
        self.classes = None


class Grey:
    """An augmentation that fails in a worker."""

    def __init__(self, **others):
        pass

    def __call__(self, image, target):
        return image.to_grey(), target


class Noisy(CocoEvaluator):
    def take(self, found):
        raise RuntimeError("too loud")


class Quitting(Callback):
    def on_step_end(self, trainer):
        trainer.models.train()
'''
TERM = "+loss.terms.mine._target_=mylab.parts"
CASES = {
    "no channels": (["backbone._target_=mylab.parts.NoChannels"], r"backbone: .*NoChannels .*does not have channels"),
    "no backbone": (["backbone._target_=mylab.parts.NoBackbone"], r"backbone: expected a .*Backbone, got .*NoBackbone"),
    "no super": (
        ["backbone._target_=mylab.parts.NoSuper"],
        r"backbone .*parts\.py:\d+\): AttributeError: cannot assign",
    ),
    "a value a pair": ([f"{TERM}.Pairs"], r"loss\.terms\.mine: Pairs .*returns \[\d+\], expected \[2\]"),
    "one value": ([f"{TERM}.Scalar"], r"loss\.terms\.mine: Scalar .*returns \[\], expected \[2\]"),
    "too few arguments": (
        [f"{TERM}.Two"],
        r"loss\.terms\.mine: .*Two .*missing 1 required positional argument: 'more'",
    ),
    "its own mistake": ([f"{TERM}.Broken"], r"loss\.terms\.mine .*parts\.py:\d+\): AttributeError: .*no_such_thing"),
    "no term": (
        [f"{TERM}.NoSplit"],
        r"loss\.terms\.mine: expected a detr\.losses\.terms\.Term, got mylab\.parts\.NoSplit",
    ),
    "a reserved name": (["+loss.terms.loss._target_=mylab.parts.Pairs"], r"loss: terms\.loss: this name is that of"),
    "a slash in a name": (["+loss.terms={a/b: {_target_: mylab.parts.Pairs}}"], r"terms\.a/b: .*contains a slash"),
    "no split": (["dataset._target_=mylab.parts.NoSplit"], r"dataset: mylab\.parts\.NoSplit .*does not have \w+"),
    "a tuple": (
        ["transformer.encoder._target_=mylab.parts.TupleEncoder"],
        r"encoder: .*TupleEncoder .*returns a .*tuple",
    ),
    "in a worker": (
        ["augmentation.train._target_=mylab.parts.Grey", "dataloader.num_workers=1"],
        r"augmentation\.train .*parts\.py:\d+\): AttributeError: .*to_grey",
    ),
    "in an evaluation": (
        ["evaluator._target_=mylab.parts.Noisy"],
        r"evaluator .*parts\.py:\d+\): RuntimeError: too loud",
    ),
    "in a callback": (
        ["+callbacks.it._target_=mylab.parts.Quitting"],
        r"callbacks\.it .*parts\.py:\d+\): AttributeError",
    ),
    "no logger": (["logger._target_=mylab.parts.NoSplit"], r"logger: expected a .*Logger, got .*NoSplit"),
    "no optimizer": (
        ["optimizer._target_=mylab.parts.NoSplit"],
        r"optimizer: expected a torch\.optim\.optimizer\.Optimizer, got .*NoSplit",
    ),
    "no schedule": (["scheduler._target_=mylab.parts.NoSplit"], r"scheduler: .*NoSplit .*does not have factor"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wrong")
    (folder / "mylab").mkdir()
    (folder / "mylab/parts.py").write_text(MODULE.lstrip())
    return folder


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_part_is_told_in_one_line(place: Path, name: str) -> None:
    words, said = CASES[name]
    run_name = name.replace(" ", "_")
    done = run("-m", "detr", "train", *TINY, "trainer.max_steps=2", "dataset.root=shapes",
               f"hydra.run.dir={run_name}", *words, cwd=place)  # fmt: skip
    line = only_error(done)
    assert re.search(said, line), line
    if "name" not in name:
        assert "parts.py" in line


def test_the_traceback_is_in_the_log_and_shown_when_asked_for(place: Path) -> None:
    words = [*TINY, "trainer.max_steps=2", "dataset.root=shapes", f"{TERM}.Broken"]
    only_error(run("-m", "detr", "train", *words, "hydra.run.dir=logged", cwd=place))
    assert "AttributeError" in (place / "logged/train.log").read_text()
    shown = run("-m", "detr", "train", *words, "hydra.run.dir=shown", cwd=place, variables={"HYDRA_FULL_ERROR": "1"})
    assert shown.returncode == 1
    assert 'parts.py", line ' in shown.stderr
