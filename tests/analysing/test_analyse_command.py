"""`detr analyse` of runs and evaluations, and the page that it writes."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from command import ROOT, only_error, run
from run_folders import HIGHER, expected_ap, predictions, write_data, write_evaluation, write_run

from detr.commands import analyse as command
from detr.commands.analyse import analyse, parse
from detr.comparison.comparison import compare
from detr.comparison.finding import find_runs
from detr.comparison.page import page
from detr.errors import UserError

DOCUMENT = ROOT / "docs" / "analysing.md"
README = (ROOT / "README.md").read_text()


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """Of 12 images with a cat each, and 6 dogs in the odd ones, the first 8 are right; the others' boxes are moved."""
    return write_run(tmp_path / "run", [expected_ap(8)], data=write_data(tmp_path / "data"), right=8)


def numbers(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "analysis.json").read_text())


def test_the_report_of_a_run(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    analyse(trained)
    found = numbers(trained)
    assert (found["split"], found["images"], found["objects"], found["boxes"]) == ("val", 12, 18, 18)
    assert found["AP"] == found["AP50"] == pytest.approx(expected_ap(8))
    # Moved by 30 pixels dogs are on nothing, cats too or near a dog: 4 cats and 2 dogs are missed.
    assert found["errors"]["missed"]["count"] == 6
    assert sum(each["count"] for each in found["errors"].values()) == 12
    assert found["threshold"]["precision"] == 1
    assert found["threshold"]["recall"] == pytest.approx(12 / 18)
    shown = capsys.readouterr().out
    assert "missed" in shown
    assert "Cut at a score of" in shown
    assert f"{trained / 'analysis.html'}" in shown


def test_the_page_is_complete_in_itself(trained: Path, tmp_path: Path) -> None:
    content = json.loads((tmp_path / "data" / "val.json").read_text())
    content["categories"][0]["name"] = "<script>alert(1)</script> $x [b]"
    (tmp_path / "data" / "val.json").write_text(json.dumps(content))
    analyse(trained, output=str(tmp_path / "a report"))
    text = (tmp_path / "a report" / "analysis.html").read_text()
    assert not re.search(r"@import|url\(|https?://|<script", text)
    links = re.findall(r"(?:src|href)=\"([^\"]*)", text)
    assert all(link.startswith("data:") for link in links)
    assert len(links) >= 4, "the icon and three images with missed objects"
    for words in ("&lt;script&gt;alert", "Confusion matrix", "What goes wrong", "Missed", "missed: 2 of 2 objects"):
        assert words in text
    assert not (trained / "analysis.html").exists()


def test_the_newest_evaluation_counts_unless_a_split_is_named(trained: Path, tmp_path: Path) -> None:
    write_evaluation(trained, expected_ap(4), data=tmp_path / "data", right=4)
    place = tmp_path / "run_evaluated"
    analyse(trained)
    assert (numbers(place)["split"], numbers(place)["AP"]) == ("test", pytest.approx(expected_ap(4)))
    analyse(trained, split="val")
    assert (numbers(trained)["split"], numbers(trained)["AP"]) == ("val", pytest.approx(expected_ap(8)))
    (place / "run.json").write_text(json.dumps({"split": "test"}))
    (place / "analysis.json").unlink()
    analyse(place)
    assert (numbers(place)["split"], numbers(place)["of"]) == ("test", str(place))
    with pytest.raises(UserError, match="an evaluation on test, not on train"):
        analyse(place, split="train")


def test_what_is_missing_is_told_with_the_command_that_makes_it(trained: Path, tmp_path: Path) -> None:
    (trained / "checkpoints").mkdir()
    (trained / "checkpoints" / "best.pt").touch()
    best = f"checkpoint={trained}/checkpoints/best.pt"
    with pytest.raises(
        UserError, match=f"no predictions on the test split; make them with detr analyse {best} split=test"
    ):
        analyse(trained, split="test")
    (trained / "predictions.json").unlink()
    with pytest.raises(UserError, match=f"there are no predictions; make them with detr analyse {best} split=val"):
        analyse(trained)
    with pytest.raises(UserError, match="no such folder"):
        analyse(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"not a run: there is no .hydra/config.yaml"):
        analyse(tmp_path / "data")
    with pytest.raises(UserError, match=f"a file; give the folder of its run, or {best}"):
        analyse(trained / "checkpoints" / "best.pt")
    with pytest.raises(UserError, match="split: expected train, val, test, got 'tset'"):
        analyse(trained, split="tset")


def test_predictions_and_data_that_do_not_fit_each_other_are_refused(trained: Path, tmp_path: Path) -> None:
    file, truth = trained / "predictions.json", tmp_path / "data" / "val.json"
    rows = predictions(tmp_path / "data", 8)
    for content, words in {
        json.dumps([*rows, {**rows[0], "image_id": 5}]): "has images that",
        json.dumps([{**rows[0], "bbox": [1, 2, 3]}]): "cannot be read as COCO results",
        json.dumps([{**rows[0], "bbox": None}]): "cannot be read as COCO results",
        "[{": "cannot be read as COCO results",
    }.items():
        file.write_text(content)
        with pytest.raises(UserError, match=words):
            analyse(trained)
    file.write_text("[]")
    truth.write_text(json.dumps(json.loads(truth.read_text()) | {"annotations": []}))
    with pytest.raises(UserError, match=r"the val split of .* has no annotations"):
        analyse(trained)
    assert not (trained / "analysis.json").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "expected one run's folder, or checkpoint=PATH, got none"),
        (["a", "b"], "got a, b"),
        (["a", "splt=val"], "did you mean split?"),
        (["a", "dataset.root=b"], "a run has split, iou, output"),
        (["--html"], "got --html"),
    ],
)
def test_a_command_line_that_is_none(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        parse(words)


def test_mistakes_are_one_line_and_leave_nothing(tmp_path: Path) -> None:
    assert "nowhere: no such folder" in only_error(run("-m", "detr", "analyse", "nowhere", cwd=tmp_path))
    line = only_error(run("-m", "detr", "analyse", "checkpoint=nowhere.pt", "split=test", cwd=tmp_path))
    assert "no checkpoint at nowhere.pt" in line
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_a_comparison_links_reports_and_shows_where_errors_differ(trained: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    other = write_run(tmp_path / "other", [expected_ap(10)], data=data, right=10, config=HIGHER)

    def compared() -> str:
        return page(compare(find_runs([str(trained), str(other)])[0], metric="AP", last=False))

    assert "Errors by kind" not in compared()
    analyse(trained)
    assert f'href="{(trained / "analysis.html").as_uri()}"' in compared()
    assert "points of AP50" not in compared(), "there is nothing to compare with"
    analyse(other)
    costs = [100 * numbers(folder)["errors"]["missed"]["AP50_cost"] for folder in (trained, other)]
    row = f'missed</th><td class="number">{costs[0]:.1f}</td><td class="number">{costs[1]:.1f} '
    assert f'{row}<span class="delta">{costs[1] - costs[0]:+.1f}</span>' in compared()
    rows = (other / "metrics.jsonl").read_text().replace(str(expected_ap(10)), "0.99")
    (other / "metrics.jsonl").write_text(rows)
    assert "points of AP50" not in compared(), "the report is of other predictions than the run's numbers"


@pytest.mark.parametrize(
    "text", [command.__doc__ or "", DOCUMENT.read_text(), README], ids=["help", "document", "README"]
)
def test_commands_of_the_documents_are_understood(text: str) -> None:
    commands = re.findall(r"^(detr analyse .*?)(?:#.*)?$", text, re.MULTILINE)
    assert commands
    for line in commands:
        words = shlex.split(line)[2:]
        if any(word.startswith("checkpoint=") for word in words):
            done = run("-m", "detr", "analyse", *words, "--cfg", "job")
            assert done.returncode == 0, done.stderr
            assert "report: true" in done.stdout
        else:
            assert parse(words)
