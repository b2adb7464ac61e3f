"""The page: complete in itself, and alive in a real browser."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, browse
from command import ROOT
from PIL import Image
from run_folders import HIGHER, expected_ap, make_run, write_data

from detr.comparison.comparison import Comparison, compare
from detr.comparison.curves import lines
from detr.comparison.finding import find_runs
from detr.comparison.page import page
from detr.comparison.pictures import count_found, pictures
from detr.drawing.axes import Scale, nice_step
from detr.drawing.boxes import Boxes

REAL = ROOT / "outputs" / "comparison"  # the runs of benchmarks/comparison.py
SHOT = ROOT / "docs" / "images" / "comparison.png"

# What a user does with the mouse, and what the browser then knows, left in the document for --dump-dom.
PROBE = """<script>
addEventListener("load", () => {
  const plot = document.querySelector(".plot"), svg = plot.querySelector("svg"), frame = svg.getBoundingClientRect();
  const before = plot.querySelector(".values").hidden;
  svg.dispatchEvent(new PointerEvent("pointermove", {clientX: frame.right - 24, clientY: frame.top + 40}));
  const shown = plot.querySelector(".values").innerText;
  plot.dispatchEvent(new PointerEvent("pointerleave"));
  plot.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight"}));
  const first = plot.querySelector(".values").innerText;
  const loaded = [...document.images].every(image => image.complete && image.naturalWidth > 0);
  const fetched = performance.getEntriesByType("resource").filter(each => !each.name.startsWith("data:")).length;
  document.body.dataset.probe = [before, loaded, fetched, shown, first].join("|").replaceAll("\\n", "/");
  document.getElementById("steps").click();
  const visible = [...document.querySelectorAll(".plots")].map(each => getComputedStyle(each).display).join(",");
  document.body.dataset.plots = visible;
});
</script></body>"""


def comparison(folder: Path, seeds: int = 2) -> Comparison:
    data = write_data(folder / "data")
    classes = {"AP/cat": 0.3, "AP/dog": 0.5}
    runs = [
        make_run(folder / "a" / str(seed), [0.1, expected_ap(4)], data=data, right=4, seed=seed, metrics=classes)
        for seed in range(seeds)
    ] + [
        make_run(folder / "b" / str(seed), [0.2, expected_ap(10)], data=data, right=10, seed=seed, config=HIGHER)
        for seed in range(seeds)
    ]
    return compare(runs, metric="AP", last=False)


class Links(HTMLParser):
    """Everything that a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "poster")]


def test_the_page_is_complete_in_itself(tmp_path: Path) -> None:
    content = page(comparison(tmp_path))
    links = Links()
    links.feed(content)
    assert len(links.found) > 8
    assert all(link.startswith("data:") for link in links.found)
    assert not re.search(r"@import|url\(|https?://", content)
    assert "default-src 'none'" in content  # the browser itself refuses requests
    assert "$" not in re.sub(r"<script>.*</script>", "", content, flags=re.DOTALL)
    for words in ("B is better than A", "optimizer.lr", "0.002", "AP50", "cat", "standard deviation"):
        assert words in content


def test_names_from_configs_are_escaped(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    evil = {"optimizer": {"lr": "<script>alert(1)</script>"}}
    runs = [make_run(tmp_path / "a", [0.1], data=data), make_run(tmp_path / "b", [0.2], data=data, config=evil)]
    assert "<script>alert" not in page(compare(runs, metric="AP", last=False))


def test_images_that_differ_most_come_first(tmp_path: Path) -> None:
    compared = comparison(tmp_path)
    found = pictures(compared.settings, "AP")
    assert [panel.caption.partition(":")[0] for panel in found.rows[0]] == ["ground truth, 04.jpg", "A", "B"]
    assert [panel.caption for panel in found.rows[0]][1:] == ["A: 0 of 1 found, 1 wrong", "B: 1 of 1 found, 0 wrong"]
    assert len({panel.uri for panel in found.rows[0]}) == 3


def test_where_the_data_are_gone_pictures_are_those_that_the_runs_kept(tmp_path: Path) -> None:
    compared = comparison(tmp_path)
    (tmp_path / "data" / "val.json").unlink()
    for setting in compared.settings:
        kept = setting.runs[0].folder / "predictions"
        kept.mkdir()
        Image.new("RGB", (40, 30)).save(kept / "000.jpg")
    found = pictures(compared.settings, "AP")
    assert "cannot be drawn anew" in found.note
    assert [panel.caption for panel in found.rows[0]] == [f"{name}: ground truth and predictions" for name in "AB"]
    assert found.rows[0][0].uri in page(compared)


def test_a_box_finds_one_object_of_its_class() -> None:
    truth = Boxes([(0, 0, 10, 10), (20, 0, 30, 10)], [0, 1])
    assert count_found(truth, Boxes([(0, 0, 10, 10), (1, 0, 10, 10), (20, 0, 30, 10)], [0, 0, 1], [0.9, 0.8, 0.7])) == 2
    assert count_found(truth, Boxes([(0, 0, 10, 10)], [1], [0.9])) == 0
    assert count_found(truth, Boxes([(0, 0, 10, 4)], [0], [0.9])) == 0
    assert count_found(truth, Boxes([], [], [])) == 0


def test_lines_are_means_where_every_seed_has_a_value(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a", [0.1, 0.2, 0.3], seed=0), make_run(tmp_path / "b", [0.3, 0.6], seed=1)]
    for run in runs:
        run.recorded.config["trainer"]["max_epochs"] = 3
    (line,) = lines(compare(runs, metric="AP", last=False).settings, "val/AP", "step")
    assert [(point.x, point.low, point.high) for point in line.points] == [(10, 10, 30), (20, 20, 60)]
    assert [point.mean for point in line.points] == pytest.approx([20, 40])


def test_ticks_are_round_and_inside() -> None:
    assert [nice_step(each) for each in (0.9, 1.2, 3, 70, 0.04)] == [1, 2, 5, 100, 0.05]
    scale = Scale(0.3, 24.1, 50, 350)
    assert scale.ticks == [5, 10, 15, 20]
    assert (scale(0.3), scale(24.1)) == (50, 350)
    assert [scale.label(tick) for tick in scale.ticks] == ["5", "10", "15", "20"]
    assert Scale(4, 4, 0, 100)(4) == 50


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
class TestInABrowser:
    def test_hovering_shows_values_and_nothing_is_fetched(self, tmp_path: Path) -> None:
        path = tmp_path / "probed.html"
        path.write_text(page(comparison(tmp_path)).replace("</body>", PROBE))
        done = browse(path, tmp_path, "--dump-dom", "--window-size=1280,1600")
        probe = re.search(r'data-probe="([^"]*)"', done.stdout)
        assert probe is not None, done.stderr
        before, loaded, fetched, shown, first = probe[1].split("|")
        assert (before, loaded, fetched) == ("true", "true", "0")
        a, b = (f"{100 * expected_ap(right):.1f}" for right in (4, 10))
        assert re.sub(r"\s+", " ", shown) == f"epoch 2/A {a} ({a} to {a})/B {b} ({b} to {b})"
        assert re.sub(r"\s+", " ", first) == "epoch 1/A 10.0 (10.0 to 10.0)/B 20.0 (20.0 to 20.0)"
        assert re.search(r'data-plots="([^"]*)"', done.stdout)[1] == "none,grid"  # type: ignore[index]
        assert ":CONSOLE" not in done.stderr

    def test_the_console_is_watched(self, tmp_path: Path) -> None:
        path = tmp_path / "broken.html"
        path.write_text("<script>nonsense()</script>")
        assert ":CONSOLE" in browse(path, tmp_path, "--dump-dom").stderr

    @pytest.mark.parametrize("theme", ["light", "dark"])
    def test_a_screenshot_has_content(self, theme: str, tmp_path: Path) -> None:
        path, shot = tmp_path / "page.html", tmp_path / "page.png"
        path.write_text(page(comparison(tmp_path)))
        dark = ["--force-dark-mode"] if theme == "dark" else []
        browse(path, tmp_path, f"--screenshot={shot}", "--window-size=1000,1500", *dark)
        pixels = np.asarray(Image.open(shot).convert("RGB"))
        assert pixels.shape == (1500, 1000, 3)
        assert (pixels[0, 0].mean() < 60) == (theme == "dark")
        assert 0.02 < (pixels != pixels[0, 0]).any(axis=2).mean() < 0.9

    @pytest.mark.skipif(not REAL.exists(), reason=f"needs the runs of benchmarks/comparison.py in {REAL}")
    def test_the_picture_in_the_docs(self, tmp_path: Path) -> None:
        runs, _ = find_runs([str(REAL / "rates"), str(REAL / "nothing")])
        path, shot = tmp_path / "page.html", tmp_path / "page.png"
        path.write_text(page(compare(runs, metric="AP", last=False)))
        browse(path, tmp_path, f"--screenshot={shot}", "--window-size=1240,2300")
        Image.open(shot).convert("P", palette=Image.Palette.ADAPTIVE, colors=255).save(SHOT, optimize=True)
        assert 50_000 < SHOT.stat().st_size < 400_000
