"""README.md of a run: what the folder says, whatever texts are in it, and never over a user's own."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import yaml
from run_folders import write_run

from detr.tracking.model_card import MARKER, carry_card, write_card
from detr.tracking.runs import CARD
from detr.tracking.status import update_status

DATA = {"images": 12, "objects": 18, "digest": "abc"}
FACTS: dict[str, Any] = {
    "choices": {"experiment": "quickstart", "backbone": "resnet18"},
    "overrides": ["dataset.root=a*b*|<b>"],
    "data": {"train": DATA},
    "classes": ["N/A", "cat", "[link](http://x) _dog_ `x`\n# head"],
    "intervals": {"AP": [0.1, 0.3]},
    "ended": "ended by trainer.max_steps=20 in step 20 of 20",
}


def run(folder: Path, *aps: float, **more: Any) -> Path:
    return write_run(folder / "run", aps, facts=FACTS | more)


def test_a_card_says_what_is_known_and_shows_texts_as_they_are(tmp_path: Path) -> None:
    folder = run(tmp_path, 0.2, 0.1)
    update_status(folder, status="finished")
    write_card(folder)
    text = (folder / CARD).read_text()
    fields = yaml.safe_load(text.split("---")[1])
    assert (fields["library_name"], "license" in fields) == ("detr", False)
    for words in ("after epoch 1", "| AP | 0.200 | 0.100 to 0.300 |", "| train | 12 | 18 | abc |", "2 classes: cat, "):
        assert words in text
    assert r"\[link](http://x) \_dog\_ \`x\`\\n# head" in text
    assert r"dataset.root=a\*b\*\|\<b>" in text
    assert "\n# head" not in text


@pytest.mark.parametrize(
    ("status", "ended", "words"),
    [
        ("running", None, "in training"),
        ("running", "stopped by SIGTERM in step 3 of 9", "not yet trained to its end: stopped by SIGTERM"),
        ("failed", None, "whose training failed: out of *luck*".replace("*", r"\*")),
    ],
)
def test_a_card_says_where_a_run_is(tmp_path: Path, status: str, ended: str | None, words: str) -> None:
    facts = {name: value for name, value in FACTS.items() if name not in ("intervals", "ended")}
    folder = write_run(tmp_path / "run", [], facts=facts | ({} if ended is None else {"ended": ended}))
    update_status(folder, status=status, error="out of *luck*")
    write_card(folder)
    text = (folder / CARD).read_text()
    assert words in text
    assert ("None yet." in text) == (ended is None)


def test_a_licence_is_given_in_both_places(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [0.1], facts=FACTS, config={"license": "apache-2.0"})
    write_card(folder)
    text = (folder / CARD).read_text()
    assert yaml.safe_load(text.split("---")[1])["license"] == "apache-2.0"
    assert text.endswith("## Licence\n\napache-2.0\n")


def test_a_users_own_text_stays(tmp_path: Path) -> None:
    folder = run(tmp_path, 0.2)
    (folder / CARD).write_text("mine")
    write_card(folder)
    assert (folder / CARD).read_text() == "mine"
    write_card(folder)
    (folder / CARD).write_text(MARKER)
    write_card(folder)
    assert "0.200" in (folder / CARD).read_text()


def test_what_goes_wrong_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        write_card(tmp_path)
    assert "could not be written" in caplog.text
    assert not (tmp_path / CARD).exists()


def test_an_export_takes_the_card_along(tmp_path: Path) -> None:
    folder = run(tmp_path, 0.2)
    write_card(folder)
    checkpoint, exported = folder / "checkpoints" / "best.pt", tmp_path / "shipped" / "a*b.onnx"
    card = carry_card(str(checkpoint), exported)
    assert card == exported.with_name("a*b.md")
    assert r"Exported from `best.pt` of this run: a\*b.onnx." in card.read_text()
    assert "| train | 12 | 18 | abc |" in card.read_text()
    card.write_text("mine")
    assert carry_card(str(checkpoint), exported) is None
    assert card.read_text() == "mine"
    assert carry_card("detr_r50", tmp_path / "detr_r50.onnx") is None
    assert json.loads((folder / "run.json").read_text()) == json.loads(json.dumps(FACTS))
