"""Settings, sentences and what a reader is warned of, on runs whose numbers are known."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from run_folders import HIGHER, expected_ap, make_run, write_data

from detr.comparison.comparison import Comparison, compare
from detr.comparison.reading import Run
from detr.comparison.settings import group
from detr.errors import UserError


def compared(runs: list[Run], metric: str = "AP", *, last: bool = False) -> Comparison:
    return compare(runs, metric=metric, last=last)


def setting(folder: Path, aps: dict[int, float], **options: Any) -> list[Run]:
    """A run of one epoch for each seed."""
    return [make_run(folder / str(seed), [ap], seed=seed, **options) for seed, ap in aps.items()]


def test_runs_that_differ_by_seed_and_place_are_one_setting(tmp_path: Path) -> None:
    runs = setting(tmp_path / "a", {1: 0.4, 2: 0.5}) + setting(tmp_path / "b", {1: 0.4, 2: 0.6}, config=HIGHER)
    grouping = group(runs)
    assert [(each.letter, each.description, [run.seed for run in each.runs]) for each in grouping.settings] == [
        ("A", "optimizer.lr=0.001 optimizer.lr_by_pattern.backbone=0.0003", [1, 2]),
        ("B", "optimizer.lr=0.002", [1, 2]),
    ]
    assert grouping.differences == {
        "optimizer.lr": ["0.001", "0.002"],
        "optimizer.lr_by_pattern.backbone": ["0.0003", "–"],
    }


def test_many_keys_are_named_by_overrides(tmp_path: Path) -> None:
    many = {"model": {f"key{index}": index for index in range(9)}}
    runs = setting(tmp_path / "a", {1: 0.4}) + setting(tmp_path / "b", {1: 0.4}, config=many, overrides=["model=big"])
    assert [each.description for each in group(runs).settings] == ["no overrides", "model=big"]


def test_a_repeated_seed_counts_once(tmp_path: Path) -> None:
    runs = setting(tmp_path / "a", {1: 0.4}) + setting(tmp_path / "b", {1: 0.5, 2: 0.6})
    comparison = compared(runs)
    (only,) = comparison.settings
    assert [run.folder.parent.name for run in only.runs] == ["b", "b"]
    assert any(str(tmp_path / "a" / "1") in note for note in comparison.notes)
    assert comparison.summary == [
        "one setting: 55.0 AP, standard deviation 7.1, 2 seeds; give another setting to compare it with"
    ]


def test_a_better_setting_is_called_better(tmp_path: Path) -> None:
    base = {0: 0.40, 1: 0.41, 2: 0.43, 3: 0.42, 4: 0.40}
    better = {seed: ap + 0.018 + 0.002 * (seed - 2) for seed, ap in base.items()}
    runs = setting(tmp_path / "a", base) + setting(tmp_path / "b", better, config=HIGHER)
    comparison = compared(runs)
    (conclusion,) = comparison.conclusions
    assert conclusion.interval is not None
    assert conclusion.interval.method == "paired"
    # differences 1.4 … 2.2: mean 1.8, deviation 0.316, t(4) 2.776, so 0.393 to either side
    assert conclusion.sentence() == "B is better than A by 1.8 AP, 95 % interval 1.4 to 2.2, 5 seeds"
    assert compared(runs[5:] + runs[:5]).conclusions[0].sentence() == (
        "B is worse than A by 1.8 AP, 95 % interval 1.4 to 2.2, 5 seeds"
    )


def test_other_seeds_are_not_paired(tmp_path: Path) -> None:
    runs = setting(tmp_path / "a", {0: 0.40, 1: 0.44}) + setting(tmp_path / "b", {5: 0.41, 6: 0.45}, config=HIGHER)
    (conclusion,) = compared(runs).conclusions
    assert conclusion.interval is not None
    assert conclusion.interval.method == "welch"
    assert conclusion.sentence().startswith(
        "A and B are not distinguishable: difference 1.0 AP, 95 % interval -11.2 to"
    )
    assert conclusion.sentence().endswith("2 seeds each, not the same ones")


def test_a_lower_loss_is_better(tmp_path: Path) -> None:
    base = setting(tmp_path / "a", {0: 0.4, 1: 0.4, 2: 0.4}, metrics={"loss": 5.0})
    runs = base + [
        make_run(tmp_path / "b" / str(seed), [0.4], seed=seed, config=HIGHER, metrics={"loss": 4.0 + 0.01 * seed})
        for seed in range(3)
    ]
    (sentence,) = [each.sentence() for each in compared(runs, "loss").conclusions]
    assert sentence.startswith("B is better than A by 0.990 loss, 95 % interval 0.965 to 1.015")


def test_several_settings_share_the_risk(tmp_path: Path) -> None:
    runs = setting(tmp_path / "a", {0: 0.40, 1: 0.41, 2: 0.42})
    for lr in (0.002, 0.003):
        runs += setting(tmp_path / str(lr), {0: 0.42, 1: 0.44, 2: 0.44}, config={"optimizer": {"lr": lr}})
    comparison = compared(runs)
    assert all("97.5 % interval" in each.sentence() for each in comparison.conclusions)
    assert any("Bonferroni" in line for line in comparison.summary)


def test_one_seed_against_several_has_no_interval(tmp_path: Path) -> None:
    runs = setting(tmp_path / "a", {0: 0.40, 1: 0.44}) + setting(tmp_path / "b", {0: 0.45}, config=HIGHER)
    (conclusion,) = compared(runs).conclusions
    assert conclusion.verdict == "unknown"
    assert conclusion.sentence() == "A and B: difference 3.0 AP; B has one seed only, and an interval needs two of each"


def test_one_seed_each_resamples_images(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    runs = [
        make_run(tmp_path / "a", [expected_ap(4)], data=data, right=4),
        make_run(tmp_path / "b", [expected_ap(10)], data=data, right=10, config=HIGHER),
    ]
    (conclusion,) = compared(runs).conclusions
    assert conclusion.interval is not None
    assert conclusion.interval.method == "images"
    assert conclusion.interval.difference == pytest.approx(100 * (expected_ap(10) - expected_ap(4)), abs=1e-9)
    assert conclusion.interval.excludes_zero
    assert "on these validation images; this says nothing about other seeds" in conclusion.sentence()
    same = make_run(tmp_path / "c", [expected_ap(4)], data=data, right=4, config=HIGHER)
    (alike,) = compared([runs[0], same]).conclusions
    assert alike.interval is not None
    assert (alike.interval.low, alike.interval.high) == (0, 0)
    assert alike.sentence().startswith("A and B have the same AP on every draw of images: 1 seed each")


def test_images_are_not_resampled_from_files_that_do_not_fit(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    good = make_run(tmp_path / "a", [expected_ap(4)], data=data, right=4)
    other = {"data": data, "config": HIGHER}
    wrong = make_run(tmp_path / "wrong", [0.9], right=4, **other)
    without = make_run(tmp_path / "without", [0.9], **other)
    fine = make_run(tmp_path / "fine", [expected_ap(10)], right=10, **other)
    assert "one of the files has changed since" in compared([good, wrong]).conclusions[0].reason
    assert "predictions.json is missing" in compared([good, without]).conclusions[0].reason
    assert "cannot be resampled" in compared([good, fine], "loss").conclusions[0].reason
    assert "of the best epoch" in compared([good, fine], last=True).conclusions[0].reason
    nowhere = tmp_path / "nowhere"  # the same paths in the configs: the same data
    gone = make_run(tmp_path / "gone", [0.9], data=nowhere, config=HIGHER)
    moved = make_run(tmp_path / "moved", [0.8], data=nowhere, config={"optimizer": {"lr": 0.1}})
    assert f"{nowhere} is gone" in compared([gone, moved]).conclusions[0].reason
    noted = {"data": {"val": {"images": 12, "objects": 18, "digest": "of other annotations"}}}
    changed = [
        make_run(tmp_path / name, [0.9], data=data, right=4, facts=noted, config=config)
        for name, config in (("one", {}), ("two", HIGHER))
    ]
    assert "the images or annotations of" in compared(changed).conclusions[0].reason


def test_other_data_are_not_compared(tmp_path: Path) -> None:
    one, two = write_data(tmp_path / "one"), write_data(tmp_path / "two", images=10)
    runs = [
        *setting(tmp_path / "a", {0: 0.4, 1: 0.5}, data=one),
        *setting(tmp_path / "b", {0: 0.6, 1: 0.7}, data=two),
    ]
    comparison = compared(runs)
    (conclusion,) = comparison.conclusions
    assert conclusion.verdict == "unknown"
    assert conclusion.sentence() == (
        f"A and B: evaluated on different data ({one} and {two}), so no differences are given"
    )
    assert comparison.difference(comparison.settings[1], "AP") is None
    copied = tmp_path / "copy"
    shutil.copytree(one, copied)
    same = {"data": {"val": {"images": 12, "objects": 18, "digest": "x"}}}
    here = setting(tmp_path / "c", {0: 0.4, 1: 0.5}, data=one, facts=same)
    there = setting(tmp_path / "d", {0: 0.6, 1: 0.7}, data=copied, facts=same)
    assert compared(here + there).conclusions[0].interval is not None  # the same content elsewhere


def test_a_reader_is_warned(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "a", [0.3, 0.4, 0.2], facts={"git": "a" * 40, "processes": 2}),
        make_run(
            tmp_path / "b", [0.3, 0.4], config=HIGHER, trainer={"max_epochs": 3}, facts={"git": "b" * 40 + "-dirty"}
        ),
    ]
    notes = "\n".join(compared(runs).notes)
    assert "best epoch by AP on the validation split itself" in notes
    assert "A 30 steps in 1.5 min; B 20 steps in 1.0 min" in notes
    assert f"{tmp_path / 'b'} is unfinished after 2 epochs, 20 steps" in notes
    assert "the code was not the same: A aaaaaaaa; B bbbbbbbb-dirty" in notes
    assert "the number of processes was not the same: A 2; B 1" in notes
    assert "best epoch" not in "\n".join(compared(runs, last=True).notes)


def test_equal_runs_need_no_warning(tmp_path: Path) -> None:
    facts = {"git": "a" * 40}
    runs = setting(tmp_path / "a", {0: 0.4, 1: 0.5}, facts=facts)
    runs += setting(tmp_path / "b", {0: 0.4, 1: 0.5}, config=HIGHER, facts=facts)
    assert compared(runs).notes == []


def test_an_unknown_metric_is_answered(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean AP50"):
        compared(setting(tmp_path / "a", {0: 0.4}), "AP5O")
