"""The page of a check, and the pictures beside it."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, browse
from command import BCCD, ROOT, run
from PIL import Image
from planted import sound

from detr.checking.finding import KINDS

SHOT = ROOT / "docs" / "images" / "check.jpg"
DOCUMENTS = [ROOT / "README.md", ROOT / "docs" / "checking.md", ROOT / "detr" / "commands" / "check.py"]


def test_the_page_is_complete_in_itself_and_the_copy_can_be_used(tmp_path: Path) -> None:
    data = sound(tmp_path / "data")
    data.train["categories"].append({"id": 9, "name": "<script>alert(1)</script> $x [b]"})
    data.first.update({"bbox": [10, 10, 0, 0], "area": 0})
    data.file("train05.png").write_bytes(b"")
    data.save()
    given = ["dataset=custom", "dataset.root=data", "dataloader.batch_size=4", "output=a report", "fix=true"]
    done = run("-m", "detr", "check", *given, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, ""), done
    content = (tmp_path / "a report" / "check.html").read_text()
    assert not re.search(r"@import|url\(|https?://|<script>alert", content)
    assert all(link.startswith("data:") for link in re.findall(r"(?:src|href)=\"([^\"]*)", content))
    for words in ("box-without-area", "empty-file", "&lt;script&gt;", "cat", "Sizes of boxes"):
        assert words in content
    names = {path.name for path in (tmp_path / "a report").iterdir()}
    assert {"check.html", "00_train_empty-file.jpg", "01_train_box-without-area.jpg", "centres_val.png"} <= names
    assert "fixed  data/annotations/train.json: image 5 removed" in done.stdout
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("copy "))
    again = run("-m", "detr", "check", *given[:3], *shlex.split(line.partition("with ")[2]), cwd=tmp_path)
    assert again.returncode == 0, again


@pytest.mark.slow
@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_a_command_of_the_documents_composes(path: Path) -> None:
    commands = re.findall(r"^(detr check .*?)(?:#.*)?$", path.read_text(), re.MULTILINE)
    assert commands
    for command in commands:
        done = run("-m", *shlex.split(command), "--cfg", "job")
        assert done.returncode == 0, (command, done.stderr)
        assert "pixels:" in done.stdout


def test_the_document_lists_every_check() -> None:
    import_module("detr.checking.check")
    import_module("detr.checking.images")
    import_module("detr.checking.label_errors")
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| (\w+) \| (.*) \|$", DOCUMENTS[1].read_text(), re.MULTILINE)
    assert rows == sorted((kind.name, kind.severity, kind.what) for kind in KINDS.values())


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_the_picture_in_the_docs(tmp_path: Path) -> None:
    done = run("-m", "detr", "check", "dataset=custom", f"dataset.root={BCCD}", f"output={tmp_path}")
    assert done.returncode == 1, done
    page = tmp_path / "check.html"
    page.write_text(page.read_text().replace(str(BCCD), "bccd"))  # where it lies says nothing
    shot = tmp_path / "page.png"
    browsed = browse(page, tmp_path, f"--screenshot={shot}", "--window-size=1240,3000")
    assert ":CONSOLE" not in browsed.stderr
    picture = Image.open(shot).convert("RGB")
    pixels = np.asarray(picture)
    assert pixels.shape == (3000, 1240, 3)
    assert 0.1 < (pixels != pixels[0, 0]).any(axis=2).mean() < 0.9
    picture.save(SHOT, quality=80)
    assert 100_000 < SHOT.stat().st_size < 900_000
