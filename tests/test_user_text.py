"""What a user calls things appears as it is, wherever it comes out, and moves no cursor, table, page or line."""

from __future__ import annotations

import json
import logging.config
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from command import ROOT, TINY, run
from PIL import Image
from run_folders import write_run
from wandb_file import read_run as read_wandb

from detr.checking.check import check as check_data
from detr.checking.page import write_report
from detr.checking.settings import settings_of
from detr.checking.table import show as show_check
from detr.comparison.comparison import compare
from detr.comparison.page import page
from detr.comparison.reading import read_run
from detr.comparison.table import show
from detr.config import build, check, compose
from detr.data.shapes.dataset import generate
from detr.drawing import lettering
from detr.drawing.boxes import draw_boxes, join_captioned
from detr.evaluation.examples import Boxes
from detr.files import write_atomically
from detr.sweeping import table
from detr.sweeping.plan import Job, Plan
from detr.texts import visible
from detr.tracking.console import Console, Terminal
from detr.tracking.status import update_status

NAMES = [
    *(
        "nut [/old]",
        "bolt [m3]",
        "[bold]x",
        ":smile:",
        "a.b/c",
        "AP",
        "loss",
        "mean",
        "per cent % {0} $x",
        "back\\slash",
    ),
    *(
        "</script><b>",
        "pipe | *star*",
        "quote \" ' end",
        "weiß",
        "猫",
        "red \x1b[31m",
        "two\nlines",
        "turn\u202eed",
        "\udcff",
    ),
]


CLASSES = ["nut [/old]", "猫.x/y\n\x1b[31m", "mean"]


def test_a_text_without_controls_is_left_alone() -> None:
    assert [visible(name) for name in NAMES[:15]] == NAMES[:15]
    assert [visible(name) for name in NAMES[15:]] == ["red \\x1b[31m", "two\\nlines", "turn\\u202eed", "\\udcff"]


@pytest.mark.parametrize("name", NAMES)
def test_the_results_table(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.results(name, {name: {"AP": 0.5}}, {name: 0.25})
    console.places({"metrics": name})
    said = capsys.readouterr().out
    assert said.count(visible(name)) >= 4
    assert "\x1b" not in said


def compared(name: str, folder: Path) -> Any:
    """Two runs with a class and an override of this name."""
    runs = []
    for number in range(2):
        made = write_run(folder / f"run{number}", [0.25, 0.5], config={"note": f"{name}{number}"})
        rows = [
            json.loads(line) | {f"val/AP/{name}": 0.5} for line in (made / "metrics.jsonl").read_text().splitlines()
        ]
        (made / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        runs.append(read_run(made))
    return compare(runs, metric="AP", last=False, skipped=[])


class Texts(HTMLParser):
    """The elements of a page, and the texts in them."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.mark.parametrize("name", NAMES)
def test_the_comparison(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain, comparison = compared("plain", tmp_path / "plain"), compared(name, tmp_path / "named")
    show(comparison, Terminal(width=200))
    said = capsys.readouterr().out
    assert visible(name) in said
    assert "\x1b" not in said
    write_atomically(tmp_path / "page.html", page(comparison))
    ours, theirs = Texts((tmp_path / "page.html").read_text(encoding="utf-8")), Texts(page(plain))
    assert ours.tags == theirs.tags  # nothing in a name becomes a part of the page
    assert any(name.encode(errors="backslashreplace").decode() == each for each in ours.texts)


def test_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    generate(Path("made"), {"train": 4, "val": 4})
    Path("data/annotations").mkdir(parents=True)
    Path("made/images/train").rename("data/images")
    content = json.loads(Path("made/annotations/train.json").read_text())
    # The name that occurs twice is told.
    content["categories"] += [{"id": 99 + number, "name": name} for number, name in enumerate([NAMES[0], *NAMES])]
    for split in ("train", "val"):
        Path(f"data/annotations/{split}.json").write_text(json.dumps(content))
    values, _ = check(compose(["dataset=custom", "dataset.root=data"]))
    report = check_data(build(values["dataset"]), settings_of(values), pixels=False, progress=lambda *_: lambda n: n)
    show_check(report, Terminal(width=200))
    said = capsys.readouterr().out
    assert f'"{NAMES[0]}"' in said
    assert "\x1b" not in said
    content = write_report(report, tmp_path / "page", root="[/x] <b>", augmented=None, labels={}).read_text()
    texts = Texts(content).texts
    assert {name.encode(errors="backslashreplace").decode() for name in NAMES} <= {*texts}


@pytest.mark.parametrize("name", NAMES)
def test_the_table_of_a_sweep(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [Job(number, f"{number}", (f"note={name}{number}",)) for number in range(2)]
    plan = Plan(tmp_path, name, ["note"], jobs)
    update_status(tmp_path / "0", status="failed", error=name)
    rows = table.job_results(plan)
    table.write(plan, rows)
    table.show(plan, rows)
    assert visible(name) in capsys.readouterr().out
    title, _, head, *_ = lines = (tmp_path / "sweep.md").read_text(encoding="utf-8").splitlines()
    assert title.startswith("# ")
    cells = [line.replace("\\|", "").count("|") for line in lines if line.startswith("|")]
    assert cells == [head.count("|")] * 4
    assert len(lines) == 10
    assert "<b>" not in (tmp_path / "sweep.md").read_text(encoding="utf-8").replace("\\<", "")


@pytest.mark.parametrize("system", [True, False])
def test_pictures(system: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not system:
        monkeypatch.setattr(lettering, "SYSTEM_FONTS", ())
    ground = Image.new("RGB", (448, 448), (90, 90, 90))
    names = [*NAMES, "犬", "weib"]
    drawn = [np.asarray(draw_boxes(ground, Boxes([(10, 50, 90, 90)], [0]), [name])).tobytes() for name in names]
    assert len(set(drawn)) == len(names)  # no two look alike, as boxes for missing characters would
    captioned = [np.asarray(join_captioned([(ground, name)])).tobytes() for name in names]
    assert len(set(captioned)) == len(names)
    for name in names:
        text, font = lettering.lettered(name, 20)
        missing = bytes(font.getmask(lettering.MISSING))
        assert all(character == " " or bytes(font.getmask(character)) != missing for character in text)
    assert lettering.lettered("bolt [m3]", 20)[0] == "bolt [m3]"
    assert system or lettering.lettered("weiß 猫", 20)[0] == "wei\\xdf \\u732b"


@pytest.mark.parametrize("name", NAMES)
def test_the_log(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = yaml.safe_load((ROOT / "conf" / "hydra" / "job_logging" / "run.yaml").read_text())
    handler = node["handlers"]["file"] | {
        "class": "logging.FileHandler",
        "filename": str(tmp_path / "log"),
        "formatter": "simple",
    }
    settings = {"version": 1, "disable_existing_loggers": False, "formatters": node["formatters"]}
    monkeypatch.setattr("locale.getencoding", lambda: "cp1252")
    logging.config.dictConfig(
        settings | {"handlers": {"file": handler}, "loggers": {"x": {"handlers": ["file"], "propagate": False}}}
    )
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("x").warning("%s – is dropped", name, exc_info=True)
    for each in logging.getLogger("x").handlers:
        each.close()
    logging.getLogger("x").handlers.clear()
    line, *traceback = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    assert line.endswith(f"WARNING x: {visible(name)} – is dropped")
    assert traceback[-1] == "ValueError: why"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose classes have such names, in W&B, too."""
    folder = tmp_path_factory.mktemp("named")
    generate(folder / "data", {"train": 8, "val": 4})
    for file in (folder / "data" / "annotations").glob("*.json"):
        content = json.loads(file.read_text())
        for category, name in zip(content["categories"], CLASSES, strict=False):
            category["name"] = name
        file.write_text(json.dumps(content))
    files = [
        f"dataset.{name}.{key}={folder}/data/{key}/{name}{end}"
        for name in ("train", "val")
        for key, end in (("images", ""), ("annotations", ".json"))
    ]
    words = [word for word in TINY if "counts" not in word and not word.startswith("logger")]
    words += [
        "dataset=custom",
        f"dataset.root={folder}/data",
        *files,
        "trainer.max_steps=1",
        "logger.notes='[/x] – 猫'",
    ]
    done = run("train.py", *words, f"hydra.run.dir={folder}/run")
    assert done.returncode == 0, done.stderr
    assert "nut [/old]" in done.stdout
    assert "猫.x/y\\n\\x1b[31m" in done.stdout
    assert "could not all be shown" not in done.stdout
    return folder / "run"


@pytest.mark.slow
def test_wandb_has_every_class(trained: Path) -> None:
    (place,) = (trained / "wandb").glob("offline-run-*")
    recorded = read_wandb(place)
    row = next(each for each in recorded.history if any(key.startswith("classes/") for key in each))
    names = {key.removeprefix("classes/AP/") for key in row if key.startswith("classes/AP/")}
    assert names >= {*CLASSES}
    (curves,) = place.glob("files/media/table/*/tables/precision_recall_table_*.json")
    content = json.loads(curves.read_text())
    keys = {row[content["columns"].index("lineKey")] for row in content["data"]}
    assert "mean of all classes" in keys


@pytest.mark.parametrize(
    ("variables", "shown"),
    [
        ({"PYTHONIOENCODING": "ascii"}, "?.x/y"),
        ({"PYTHONIOENCODING": "cp1252"}, "?.x/y"),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, ".x/y"),
    ],
)
def test_a_terminal_with_few_characters(
    variables: dict[str, str], shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared("nut [/old] 猫.x/y", tmp_path)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run(
        [sys.executable, "-m", "detr", "compare", str(tmp_path / "run0"), str(tmp_path / "run1")],
        cwd=ROOT,
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout.decode("latin-1")
    assert b"nut [/old]" in done.stdout
