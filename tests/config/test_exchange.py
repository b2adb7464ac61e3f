"""Options of an experiment are exchanged for others that lack what the experiment sets."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from command import TINY, only_error, run

from detr.config import check, compose
from detr.config.compose import groups, load, without_hydra
from detr.config.exchange import checked
from detr.errors import UserError

PLACE = "dataset.root=/data"  # of data sets that have none
EXCHANGED = {
    ("experiment=d_fine_m", "augmentation=none"): ["augmentation.until"],
    ("experiment=dino_r50", "scheduler=cosine"): ["scheduler.milestones"],
    ("experiment=deim_m", "augmentation/mixing=none"): ["augmentation.mixing"],
    ("experiment=rt_detr_r50", "augmentation/multi_scale=none"): ["augmentation.multi_scale"],
}


def of_command(words: Sequence[str], *folders: Path) -> dict[str, Any]:
    """The config that a run with these words has."""
    loaded = load("train", [*words, PLACE], folders)
    return checked(without_hydra(loaded), loaded.hydra)[0]


@pytest.mark.parametrize("words", EXCHANGED, ids=" ".join)
def test_what_the_new_option_lacks_is_left_out_and_said(
    words: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found = of_command(words)
    assert found == check(compose([*words, PLACE, *(f"~{key}" for key in EXCHANGED[words])]))[0]
    assert caplog.messages
    for message in caplog.messages:
        assert message.startswith(EXCHANGED[words][0])
        assert message.endswith(" is left out: the experiment sets it for an option that is exchanged")


def test_what_the_new_option_has_stays() -> None:
    assert of_command(["experiment=deim_m", "scheduler=cosine"])["scheduler"]["warmup_steps"] == 2000


@pytest.mark.parametrize(
    "words",
    [
        ["experiment=d_fine_m", "augmentation=none", "augmentation.until=0.5"],
        ["experiment=dino_r50", "scheduler=cosine", "+scheduler.milestons=[3]"],
        ["experiment=dino_r50", "scheduler=cosine", "+scheduler={milestones: [3]}"],
        ["experiment=dino_r50", "scheduler=multistep", "+scheduler.milestons=[3]"],
    ],
    ids=" ".join,
)
def test_what_was_typed_is_never_left_out(words: list[str]) -> None:
    with pytest.raises(UserError, match=r"nothing reads this key|does not take mileston"):
        of_command(words)


OWN = {
    # Of an option that is typed, of an experiment, and what one option sets for another that is typed.
    "scheduler/mine": "defaults: [cosine]\nfinale: 0.1\n",
    "experiment/mine": "defaults: [quickstart, _self_]\nscheduler:\n  finale: 0.1\n",
    "ingredient/mine": "scheduler:\n  final: 0.1\n",
}


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("scheduler/mine", ["scheduler=mine"]),
        ("experiment/mine", ["experiment=mine", "scheduler=cosine"]),
        ("experiment/mine", ["experiment=mine", "scheduler=step"]),
        ("ingredient/mine", ["+ingredient=mine", "scheduler=step"]),
    ],
)
def test_mistakes_in_own_options_are_none_of_these(file: str, words: list[str], tmp_path: Path) -> None:
    path = tmp_path / f"{file}.yaml"
    path.parent.mkdir()
    path.write_text(OWN[file] if file.startswith("scheduler") else f"# @package _global_\n{OWN[file]}")
    with pytest.raises(UserError, match=r"does not take finale?"):
        of_command(words, tmp_path)


def test_on_the_command_line(tmp_path: Path) -> None:
    """A sweep checks its jobs before the first one; the one with the experiment's own option keeps the value."""
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\ndefaults: [quickstart, _self_]\nscheduler:\n  final: 0.1\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    words = ["--config-dir", str(tmp_path), "experiment=mine", *TINY, "trainer.max_steps=1", "scheduler=cosine,step"]
    sweep = tmp_path / "sweep"
    done = run("train.py", "-m", *words, f"dataset.root={tmp_path}/shapes", f"hydra.sweep.dir={sweep}")
    assert done.returncode == 0, done.stderr
    configs = [(sweep / job / ".hydra" / "config.yaml").read_text() for job in ("0", "1")]
    assert ["final: 0.1" in config for config in configs] == [True, False]
    assert "scheduler.final is left out" in (sweep / "1" / "train.log").read_text()
    done = run("train.py", *words[:-1], "scheduler=step", "+scheduler.final=0.2", f"dataset.root={tmp_path}/shapes")
    assert "scheduler.final" in only_error(done)


@pytest.mark.slow
@pytest.mark.parametrize("experiment", groups()["experiment"])
def test_every_option_of_how_a_detector_is_trained_can_be_exchanged(experiment: str) -> None:
    for group in ("augmentation", "augmentation/mixing", "augmentation/multi_scale", "scheduler", "optimizer"):
        for option in groups()[group]:
            of_command([f"experiment={experiment}", f"{group}={option}"])
