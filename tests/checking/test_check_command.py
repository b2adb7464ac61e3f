"""`detr check` as users and pipelines meet it, and what a training says by itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import BCCD, ROOT, TINY, only_error, run
from planted import Data, sound

QUICK = ["dataset=custom", "dataloader.batch_size=4"]


def written(folder: Path, *faults: str) -> Data:
    data = sound(folder / "data")
    if "damage" in faults:
        data.first.update({"bbox": [10, 10, 0, 0], "area": 0})
    if "hint" in faults:
        data.train["categories"].append({"id": 9, "name": "cow"})
    if "error" in faults:
        data.first["category_id"] = 500
    data.save()
    return data


@pytest.mark.parametrize(
    ("faults", "strict", "status"),
    [
        ([], False, 0),
        (["hint"], False, 0),
        (["hint"], True, 1),
        (["damage"], False, 1),
        (["error", "hint"], False, 1),
    ],
)
def test_the_exit_status_says_whether_something_was_found(
    faults: list[str], strict: bool, status: int, tmp_path: Path
) -> None:
    data = written(tmp_path, *faults)
    given = [*QUICK, f"dataset.root={data.root}", f"strict={str(strict).lower()}", "--json", "found.json"]
    done = run("-m", "detr", "check", *given, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (status, ""), done
    found = json.loads((tmp_path / "found.json").read_text())
    assert sorted({each["severity"] for each in found["findings"]}) == sorted(faults)
    assert found["splits"]["train"]["images"] == 12
    for each in found["findings"]:
        assert each["message"] in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"data", "found.json"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--json"], ["--json", "expected a file"]),
        (["pixel=false"], ["pixel", "did you mean pixels?"]),
        (["pixels=maybe"], ["pixels", "maybe"]),
        (["fix=true"], ["fix=true", "output=FOLDER"]),
    ],
)
def test_misuse_is_answered_in_one_line(given: list[str], words: list[str], tmp_path: Path) -> None:
    done = run("-m", "detr", "check", *given, "dataset=custom", cwd=tmp_path)
    line = only_error(done)
    for word in words:
        assert word in line


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    data = sound(tmp_path / "data")
    data.train["categories"].append({"id": 9, "name": "nut [/old] <b>"})
    data.save()
    done = run("-m", "detr", "check", *QUICK, f"dataset.root={data.root}", cwd=tmp_path)
    assert '"nut [/old] <b>" (9), 0 objects' in done.stdout, done


def test_bccd_has_what_is_known_of_it(tmp_path: Path) -> None:
    given = ["dataset=custom", f"dataset.root={BCCD}", "--json", str(tmp_path / "found.json")]
    done = run("-m", "detr", "check", *given, cwd=tmp_path)
    assert done.returncode == 1
    found = [
        (each["check"], each["split"], each["count"], Path(each["places"][0]["file"]).name)
        for each in json.loads((tmp_path / "found.json").read_text())["findings"]
    ]
    assert found == [
        ("box-without-area", "train", 1, "BloodImage_00343.jpg"),
        ("box-without-area", "val", 1, "BloodImage_00338.jpg"),
        ("leaked-near-duplicates", "val", 1, "BloodImage_00037.jpg"),  # the same cells as train's 00038
    ]


def test_nothing_is_found_in_the_embedded_data_set(tmp_path: Path) -> None:
    counts = next(word for word in TINY if "counts" in word)
    given = ["dataset=shapes", counts, f"paths.data_root={tmp_path}", "strict=true"]
    done = run("-m", "detr", "check", *given, cwd=tmp_path)
    assert done.returncode == 0, done
    assert "nothing found" in done.stdout


def test_a_training_says_what_costs_nothing_to_find(tmp_path: Path) -> None:
    data = sound(tmp_path / "data")
    data.train["annotations"].append(data.first | {"id": 1000})
    data.save()
    words = [*TINY[:1], *TINY[2:], "experiment=bccd_smoke", "trainer.max_steps=1", "augmentation.max_size=64"]
    done = run("train.py", *words, f"dataset.root={data.root}", f"hydra.run.dir={tmp_path / 'run'}", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    (line,) = (line for line in said.splitlines() if "annotated twice" in line)
    assert "annotation 1000" in line
    assert "`detr check` shows more" in said
    assert said.index("annotated twice") < said.index("detr check")
