"""Options of an experiment are exchanged for others that lack what the experiment sets."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from command import only_error, run

from detr.config import check, compose
from detr.config.compose import groups
from detr.errors import UserError

PLACE = "dataset.root=/data"  # of data sets that have none
EXCHANGED = {
    ("experiment=d_fine_m", "augmentation=none"): ["augmentation.until"],
    ("experiment=dino_r50", "scheduler=cosine"): ["scheduler.milestones"],
    ("experiment=deim_m", "augmentation/mixing=none"): ["augmentation.mixing"],
    ("experiment=rt_detr_r50", "augmentation/multi_scale=none"): ["augmentation.multi_scale"],
}


@pytest.mark.parametrize("words", EXCHANGED, ids=" ".join)
def test_what_the_new_option_lacks_is_left_out_and_said(
    words: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        found = compose([*words, PLACE])
    assert found == compose([*words, PLACE, *(f"~{key}" for key in EXCHANGED[words])])
    check(found)
    for message in caplog.messages:
        assert message.endswith(f"is left out: {words[0]} sets it for an option that is not used")
    assert all(any(message.startswith(key) for message in caplog.messages) for key in EXCHANGED[words])


def test_what_the_new_option_has_stays() -> None:
    assert compose(["experiment=deim_m", "scheduler=cosine", PLACE]).scheduler.warmup_steps == 2000


@pytest.mark.parametrize(
    "words",
    [
        ["experiment=d_fine_m", "augmentation=none", "augmentation.until=0.5"],
        ["experiment=dino_r50", "scheduler=cosine", "+scheduler.milestons=[3]"],
        ["experiment=dino_r50", "+scheduler.milestons=[3]"],
    ],
    ids=" ".join,
)
def test_what_was_typed_is_never_left_out(words: list[str]) -> None:
    with pytest.raises(UserError, match=r"nothing reads this key|does not take milestons"):
        check(compose([*words, PLACE]))


def test_an_own_experiment_exchanges_an_option_of_the_one_it_builds_on(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\ndefaults:\n  - dino_r50\n  - override /scheduler: cosine\n  - _self_\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    found = compose(["experiment=mine", PLACE], folders=[tmp_path])
    check(found)
    assert "milestones" not in found.scheduler


def test_a_typo_in_an_own_experiment_is_none_of_these(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\ndefaults:\n  - quickstart\n  - override /scheduler: cosine\n  - _self_\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(f"{text}scheduler:\n  finale: 0.1\n")
    done = run("train.py", "--config-dir", str(tmp_path), "experiment=mine", "logger=none")
    assert "does not take finale; did you mean scheduler.final?" in only_error(done)


@pytest.mark.slow
@pytest.mark.parametrize("experiment", groups()["experiment"])
def test_every_option_of_how_a_detector_is_trained_can_be_exchanged(experiment: str) -> None:
    for group in ("augmentation", "augmentation/mixing", "augmentation/multi_scale", "scheduler", "optimizer"):
        for option in groups()[group]:
            check(compose([f"experiment={experiment}", f"{group}={option}", PLACE]))
