"""A format that only Datumaro reads, by the command that docs/data.md has."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import venv
from pathlib import Path

import pytest
from command import ROOT, run
from formats_example import image, text

CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version>
<meta><task><labels><label><name>cat</name></label><label><name>dog</name></label></labels></task></meta>
{}</annotations>"""
IMAGE = """<image id="{0}" name="{0}.jpg" width="40" height="20">
<box label="cat" occluded="0" xtl="5" ytl="4" xbr="15" ybr="14" z_order="0"></box>
<polygon label="dog" occluded="0" points="20,5;35,5;35,18;20,18" z_order="0"></polygon></image>"""


@pytest.mark.slow
def test_annotations_of_cvat_train_after_the_command_of_the_docs(tmp_path: Path) -> None:
    (command,) = re.findall("^datum .*$", (ROOT / "docs" / "data.md").read_text(), re.M)
    (wanted,) = re.findall(r'^formats = \["(.*)"\]$', (ROOT / "pyproject.toml").read_text(), re.M)
    venv.create(tmp_path / "venv", with_pip=True)  # of its own: it wants other versions of much that we use
    programs = tmp_path / "venv" / "bin"
    subprocess.run([programs / "pip", "install", "--quiet", wanted], check=True)
    for number in range(8):
        image(tmp_path / "exported" / "images" / f"{number}.jpg", number)
    text(tmp_path / "exported" / "annotations.xml", CVAT.format("".join(map(IMAGE.format, range(8)))))
    program, *words = shlex.split(command)
    subprocess.run([programs / program, *words], check=True, cwd=tmp_path)
    given = ["dataset=custom", "dataset.root=mydata", "dataset.holdout=0.25", "dataloader.batch_size=2"]
    run_it = ["trainer.max_steps=1", "trainer.max_minutes=null", "logger=none", "hydra.run.dir=run"]
    done = run("-m", "detr", "train", *given, *run_it, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["data"]["train"]["images"] == 6
