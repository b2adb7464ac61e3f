"""Parts from outside that are wrong: one line that names the key and the file, and never a silent misreading."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command import TINY, only_error, run

MODULE = '''
from dataclasses import replace

import torch
from torch import nn

from detr.data.shapes.dataset import Shapes
from detr.evaluation.coco import CocoEvaluator
from detr.losses.matcher import Matcher
from detr.losses.terms import Term
from detr.models.deformable import DeformableDecoder
from detr.models.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone
from detr.models.encoder import Encoder
from detr.models.hybrid_encoder import HybridEncoder
from detr.models.two_stage import TwoStageQueries
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


class Good(Term):
    def forward(self, matched):
        return matched.sum_by_layer(matched.boxes()[0].sum(-1))


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


class Mute(CocoEvaluator):
    def find(self, predictions, batch, classification):
        return None


class Lazy(CocoEvaluator):
    def find(self, predictions, batch, classification):
        findings = super().find(predictions, batch, classification)
        return replace(findings, found=findings.found[1:])


class Numbers(CocoEvaluator):
    def compute(self):
        return {"AP": 0.5}


class Flat(nn.Module):
    """Positions of one image for all, which would spread over the batch."""

    def __init__(self, *, d_model, **others):
        super().__init__()
        self.d_model = d_model

    def forward(self, padding):
        return torch.zeros(1, self.d_model, *padding.shape[1:])


class Liar(Backbone):
    """Two levels of eight channels; it says something else."""

    def __init__(self, *, lie, **others):
        super().__init__(IMAGENET_MEAN, IMAGENET_STD)
        self.channels = [8, 16] if lie == "channels" else [8, 8]
        self.strides = [8, 32] if lie == "strides" else [8, 16]
        self.first, self.second = nn.Conv2d(3, 8, 8, stride=8), nn.Conv2d(8, 8, 2, stride=2)

    def forward(self, images) -> list[torch.Tensor]:
        first = self.first(images)
        return [first, self.second(first)]


class Short(HybridEncoder):
    def forward(self, features):
        memory = super().forward(features)
        return replace(memory, tokens=memory.tokens[:, :-1])


class One(TwoStageQueries):
    """Queries of the first image for all, which would spread over the batch."""

    def forward(self, memory):
        queries = super().forward(memory)
        return replace(queries, content=queries.content[:1])


class Stray:
    """An augmentation that loses a box, but keeps its label."""

    def __init__(self, **others):
        pass

    def __call__(self, image, target):
        return image, target | {"boxes": target["boxes"][1:]}


class Fewer(DeformableDecoder):
    def forward(self, queries, memory, box_head):
        decoded = super().forward(queries, memory, box_head)
        return replace(decoded, boxes=decoded.boxes[:, :, :-1])


class Aloof(Matcher):
    def __init__(self, classification, **others):
        super().__init__()
        self.classification = classification

    def forward(self, groups, targets):
        return {}


class Odd(Shapes):
    """Shapes whose samples are not what they should be."""

    how = ""

    def split(self, name, **others):
        images = super().split(name, **others)
        return list(images.files) if self.how == "list" else Images(images, self.how)


class Images:
    def __init__(self, images, how):
        self.images, self.how = images, how

    def __len__(self):
        return len(self.images)

    def __getattr__(self, name):
        if name.startswith("__") or name in ("images", "how"):
            raise AttributeError(name)
        return getattr(self.images, name)

    def __getitem__(self, key):
        sample = self.images[key]
        changed = {
            "tuple": (sample.image, sample.boxes),
            "pixels": replace(sample, boxes=sample.boxes * 128),
            "labels": replace(sample, labels=sample.labels + 5),
        }
        return changed[self.how]


class OddList(Odd):
    how = "list"


class OddTuple(Odd):
    how = "tuple"


class OddPixels(Odd):
    how = "pixels"


class OddLabels(Odd):
    how = "labels"


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
    "no findings": (["evaluator._target_=mylab.parts.Mute"], r"evaluator: .*Mute .*find returns a NoneType, expected"),
    "an image is not looked at": (
        ["evaluator._target_=mylab.parts.Lazy"],
        r"evaluator: .*Lazy .*find returns a list of \d, expected what was found in \d+ images",
    ),
    "bare numbers": (["evaluator._target_=mylab.parts.Numbers"], r"evaluator: .*Numbers .*compute returns a dict"),
    "in a callback": (
        ["+callbacks.it._target_=mylab.parts.Quitting"],
        r"callbacks\.it .*parts\.py:\d+\): AttributeError",
    ),
    "no logger": (["logger._target_=mylab.parts.NoSplit"], r"logger: expected a .*Logger, got .*NoSplit"),
    "no optimizer": (
        ["optimizer._target_=mylab.parts.NoSplit"],
        r"optimizer: expected a torch\.optim\.optimizer\.Optimizer, got .*NoSplit",
    ),
    "positions that spread": (
        ["position_embedding._target_=mylab.parts.Flat"],
        r"position_embedding: .*Flat .*returns a Tensor \[1, 32, .*expected a Tensor \[\d+, 32",
    ),
    "other channels": (
        ["backbone._target_=mylab.parts.Liar", "+backbone.lie=channels"],
        r"backbone: .*Liar .*returns levels .* but by its channels and strides",
    ),
    "other strides": (
        ["backbone._target_=mylab.parts.Liar", "+backbone.lie=strides"],
        r"backbone: .*Liar .*returns levels .* but by its channels and strides .*H/32",
    ),
    "fewer tokens": (
        ["transformer.encoder._target_=mylab.parts.Short"],
        r"transformer\.encoder: .*Short .*returns tokens \[\d+, \d+, 32\], positions",
    ),
    "queries of one image": (
        ["queries._target_=mylab.parts.One"],
        r"queries: .*One .*returns content \[1, 20, 32\], expected \[\d+, Q, 32\]",
    ),
    "a box is lost": (["augmentation.train._target_=mylab.parts.Stray"], r"augmentation: .* gives boxes .*and labels"),
    "fewer boxes": (
        ["transformer.decoder._target_=mylab.parts.Fewer"],
        r"transformer\.decoder: .*Fewer .*returns hidden \[.*and boxes",
    ),
    "no matches": (["matcher._target_=mylab.parts.Aloof"], r"matcher: .*Aloof .*returns a NoneType for the group ''"),
    "a list of files": (["dataset._target_=mylab.parts.OddList"], r"dataset, split train: .*list.* does not have"),
    "a tuple for a sample": (
        ["dataset._target_=mylab.parts.OddTuple"],
        r"dataset: .*Images .*gives a tuple of 2, expected",
    ),
    "boxes in pixels": (
        ["dataset._target_=mylab.parts.OddPixels", "dataloader.num_workers=1"],
        r"dataset: .*Images .*gives boxes from .*expected cxcywh in \[0, 1\]",
    ),
    "labels of other classes": (
        ["dataset._target_=mylab.parts.OddLabels"],
        r"dataset: .*Images .*gives labels from .*expected 0 to 4",
    ),
    "the second of two": (
        ["+loss.terms.another._target_=mylab.parts.Good", f"{TERM}.Broken"],
        r"^error: loss\.terms\.mine .*parts\.py:\d+\): AttributeError",
    ),
    "no schedule": (["scheduler._target_=mylab.parts.NoSplit"], r"scheduler: .*NoSplit .*does not have factor"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wrong")
    (folder / "mylab").mkdir()
    (folder / "mylab/parts.py").write_text(MODULE.lstrip())
    return folder


QUICK = {
    *("no channels", "no split", "a reserved name", "a value a pair", "too few arguments", "its own mistake"),
    "in a worker",
}


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_a_wrong_part_is_told_in_one_line(place: Path, name: str) -> None:
    words, said = CASES[name]
    run_name = name.replace(" ", "_")
    done = run("-m", "detr", "train", *TINY, "trainer.max_steps=2", "dataset.root=shapes",
               f"hydra.run.dir={run_name}", *words, cwd=place)  # fmt: skip
    line = only_error(done)
    assert re.search(said, line), line
    if name not in ("a reserved name", "a slash in a name", "a list of files", "a box is lost"):
        assert "parts.py" in line


@pytest.mark.slow
def test_the_traceback_is_in_the_log_and_shown_when_asked_for(place: Path) -> None:
    words = [*TINY, "trainer.max_steps=2", "dataset.root=shapes", f"{TERM}.Broken"]
    only_error(run("-m", "detr", "train", *words, "hydra.run.dir=logged", cwd=place))
    assert "AttributeError" in (place / "logged/train.log").read_text()
    shown = run("-m", "detr", "train", *words, "hydra.run.dir=shown", cwd=place, variables={"HYDRA_FULL_ERROR": "1"})
    assert shown.returncode == 1
    assert 'parts.py", line ' in shown.stderr
