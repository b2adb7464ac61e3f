"""docs/own_data.md and docs/shipping.md from their first command to their last, on a few images and two steps."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from command import BCCD, ROOT, run

SPLITS = {"train": 8, "val": 4, "test": 4}
SHRUNK = {
    "trainer.max_minutes=10": [
        "trainer.max_steps=2",
        "logger=none",
        "dataloader.num_workers=0",
        "augmentation.max_size=128",
    ]
}
DOWNLOADS = "checkpoint=detr_r50"  # composed by test_readme.py


def commands(document: str) -> list[list[str]]:
    text = (ROOT / "docs" / document).read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    found = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    return [words for words in found if DOWNLOADS not in words]


def write_data(root: Path) -> None:
    (root / "annotations").mkdir(parents=True)
    (root / "images").symlink_to(BCCD / "images")
    for split, count in SPLITS.items():
        content = json.loads((BCCD / "annotations" / f"{split}.json").read_text())
        content["images"] = content["images"][:count]
        kept = {image["id"] for image in content["images"]}
        content["annotations"] = [each for each in content["annotations"] if each["image_id"] in kept]
        (root / "annotations" / f"{split}.json").write_text(json.dumps(content))


def follow(words: list[str], home: Path) -> None:
    """What a reader does who copies the line; `detr check` may have found something."""
    words = [each for word in words for each in SHRUNK.get(word, [word])]
    words = [str(each) for word in words for each in (sorted(home.glob(word)) if "*" in word else [word])]
    script = [str(ROOT / words[1])] if words[0] == "python" else ["-m", "detr", words[1]]
    done = run(*script, *words[2:], cwd=home, timeout=900)
    assert done.returncode in ((0, 1) if words[1] == "check" else (0,)), (words, done.stderr)


@pytest.mark.slow
def test_every_command_runs_and_leaves_what_the_documents_say(tmp_path: Path) -> None:
    write_data(tmp_path / "mydata")
    for folder in ("photos", "pictures"):
        (tmp_path / folder).mkdir()
        for file in sorted((BCCD / "images").iterdir())[:2]:
            shutil.copy(file, tmp_path / folder)
    for words in commands("own_data.md"):
        follow(words, tmp_path)
    for file in ("report/check.html", "batch.jpg", "outputs/first_test/metrics.json", "found/predictions.json"):
        assert (tmp_path / file).is_file(), file
    assert json.loads((tmp_path / "outputs/first/analysis.json").read_text())["split"] == "val"
    assert len(list((tmp_path / "found/pictures").iterdir())) == 2
    for words in commands("shipping.md"):
        follow(words, tmp_path)
    assert {"detector.onnx", "half.onnx", "detector.xml", "detector.bin", "detector.md"} <= {
        file.name for file in (tmp_path / "shipped").iterdir()
    }
    assert (tmp_path / "better_drafts" / "voc").is_dir()
    assert (tmp_path / "outputs/one_layer/metrics.json").is_file()
