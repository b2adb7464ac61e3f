"""Comparing what evaluate.py found on another split, and runs whose data set is not here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from run_folders import HIGHER, expected_ap, write_data, write_run
from run_folders import write_evaluation as evaluate

from detr.comparison.comparison import Comparison, compare
from detr.comparison.finding import find_runs
from detr.comparison.numbers import numbers
from detr.comparison.page import page
from detr.errors import UserError


def on_test(*folders: Path) -> Comparison:
    runs, skipped = find_runs([str(folder) for folder in folders], "test")
    return compare(runs, metric="AP", last=False, skipped=skipped)


def test_settings_metrics_and_seeds_are_of_the_split(tmp_path: Path) -> None:
    for seed, (a, b) in enumerate(((0.30, 0.32), (0.31, 0.33), (0.32, 0.345))):
        evaluate(write_run(tmp_path / "a" / str(seed), [0.9], seed=seed), a)
        evaluate(write_run(tmp_path / "b" / str(seed), [0.1], seed=seed, config=HIGHER), b)
    never = write_run(tmp_path / "never", [0.5], seed=9)
    comparison = on_test(tmp_path / "a", tmp_path / "b", never)
    # differences 2, 2 and 2.5: mean 2.17, deviation 0.289, t(2) 4.30, so 0.72 to either side
    assert comparison.summary[0] == "B is better than A by 2.2 AP, 95 % interval 1.4 to 2.9, 3 seeds"
    (line,) = comparison.skipped
    assert line == (
        f"{never}: not evaluated on test; do so with detr evaluate checkpoint={never}/checkpoints/best.pt split=test"
    )
    assert comparison.class_names == ["AP/cat"]
    content, html = numbers(comparison), page(comparison)
    assert content["settings"][0]["test"]["AP"]["mean"] == pytest.approx(31)
    assert content["settings"][0]["runs"][0]["test"]["AP/cat"] == pytest.approx(15)
    assert "On the test split; AP in points" in html
    assert "AP by class, test split" in html
    assert "best epoch" not in html
    validated, _ = find_runs([str(tmp_path / name) for name in "ab"])
    assert "B is worse than A" in compare(validated, metric="AP", last=False).summary[0], "of the validation"


def test_with_one_seed_each_images_of_the_split_are_drawn(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    for name, config, right in (("a", {}, 4), ("b", HIGHER, 10)):
        run = write_run(tmp_path / name, [0.5], data=tmp_path / "gone", config=config)
        evaluate(run, expected_ap(right), data=data, right=right)
    comparison = on_test(tmp_path / "a", tmp_path / "b")
    (conclusion,) = comparison.conclusions
    assert conclusion.interval is not None, conclusion.reason
    assert conclusion.interval.difference == pytest.approx(100 * (expected_ap(10) - expected_ap(4)), abs=1e-9)
    assert "1 seed each, on these test images" in conclusion.sentence()
    assert page(comparison).count("data:image/jpeg") == 8 * 3


def test_another_way_of_evaluating_is_another_setting(tmp_path: Path) -> None:
    evaluate(write_run(tmp_path / "a", [0.5]), 0.3)
    evaluate(write_run(tmp_path / "b", [0.5], seed=1), 0.4, overrides=["evaluator.max_detections=10"])
    evaluate(write_run(tmp_path / "c", [0.5], seed=2), 0.4, overrides=["dataset.root=/elsewhere"])
    comparison = on_test(*(tmp_path / name for name in "abc"))
    assert [[run.seed for run in each.runs] for each in comparison.settings] == [[0, 2], [1]]
    assert comparison.settings[1].description == "evaluate.py=evaluator.max_detections=10"


def test_checkpoints_of_other_kinds_are_noted(tmp_path: Path) -> None:
    evaluate(write_run(tmp_path / "a", [0.5]), 0.3)
    evaluate(write_run(tmp_path / "b", [0.5], seed=1), 0.4, checkpoint={"path": "/x/checkpoints/last.pt"})
    notes = on_test(tmp_path / "a", tmp_path / "b").notes
    assert "the checkpoints that were evaluated are not of one kind: best.pt, last.pt" in notes


def test_a_broken_record_is_told_in_one_line(tmp_path: Path) -> None:
    run = evaluate(write_run(tmp_path / "a", [0.5]), 0.3)
    (run / "evaluations" / "test.json").write_text("{}")
    with pytest.raises(UserError, match=r"test\.json: not the record of an evaluation"):
        on_test(run)


@pytest.mark.parametrize(
    "dataset",
    [
        {"_target_": "mylab.data.Mine", "root": "/data"},
        {"_target_": "mylab.data.Mine"},
        {"_target_": "builtins.open", "file": "/nowhere/list.txt", "root": None},
        {"_target_": "builtins.int", "x": "nonsense"},
        {"root": "${oc.env:NOWHERE_TO_BE_FOUND}"},
    ],
)
def test_runs_on_data_sets_that_cannot_be_built_here(dataset: dict[str, Any], tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path / "a" / str(seed), [0.40 + 0.1 * seed], seed=seed, config={"dataset": dataset}, right=None)
        write_run(tmp_path / "b" / str(seed), [0.45 + 0.11 * seed], seed=seed, config=HIGHER | {"dataset": dataset})
    runs, _ = find_runs([str(tmp_path / name) for name in "ab"])
    comparison = compare(runs, metric="AP", last=False)
    assert "not distinguishable" in comparison.summary[0]
    assert "No images: " in page(comparison)
    assert numbers(comparison)["images"]["note"].startswith("no images: ")
    single = compare([runs[0], runs[2]], metric="AP", last=False)
    assert "one seed each, and no interval over images: " in single.summary[0]
