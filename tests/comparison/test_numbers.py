"""`detr compare --json` holds every number that the page shows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from run_folders import HIGHER, expected_ap, write_data, write_run

from detr.comparison.comparison import Comparison, compare
from detr.comparison.finding import find_runs
from detr.comparison.numbers import numbers
from detr.comparison.page import page

NUMBER = r"(?<![\w.])[+-]?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?(?![\w])"


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    """Two settings with two seeds and one with a single one, two epochs each, on images that are there."""
    data = write_data(tmp_path / "data")
    for setting, config, right in (("a", {}, 4), ("b", HIGHER, 10), ("c", {"optimizer": {"lr": 0.0177}}, 7)):
        for seed in range(1 if setting == "c" else 2):
            aps, ap = [0.1137 * (seed + 1), expected_ap(right)], 0.2713 + 0.0091 * right + 0.0313 * seed
            options: dict[str, Any] = {"data": data, "right": right, "seed": 71 + seed, "config": config}
            options["metrics"] = {"AP/cat": ap, "AP/dog": ap / 2, "AP75": ap / 3, "counted": ap / 5}
            options["facts"] = {"steps": 20, "git": setting * 40}
            write_run(tmp_path / setting / str(seed), aps, **options)
    runs, skipped = find_runs([str(tmp_path / name) for name in "abc"])
    return compare(runs, metric="AP", last=False, skipped=skipped)


class Shown(HTMLParser):
    """The text that a page shows, and what it shows under the pointer; without the ticks of axes and the footer."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.inside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag not in ("meta", "link", "img", "input", "br"):
            tick = tag == "text" and given.get("text-anchor") in ("end", "middle") and given.get("y") is not None
            self.inside.append("tick" if tick else tag)
        if given.get("data-points"):
            for point in json.loads(given["data-points"] or ""):
                self.texts += [point["title"], *(words for _, words in point["rows"])]
        self.texts += [given.get(name) or "" for name in ("alt", "aria-label", "title")]

    def handle_endtag(self, tag: str) -> None:
        if self.inside:
            self.inside.pop()

    def handle_data(self, data: str) -> None:
        if not {"tick", "style", "script", "footer", "title"} & set(self.inside):
            self.texts.append(data)


def shown(html: str) -> list[str]:
    """Every number that a page shows, as it stands."""
    parser = Shown()
    parser.feed(html)
    return [each.lstrip("+").replace(",", "") for text in parser.texts for each in re.findall(NUMBER, text)]


def leaves(content: Any) -> Iterator[Any]:
    if isinstance(content, dict):
        yield from content
        for value in content.values():
            yield from leaves(value)
    elif isinstance(content, list):
        for value in content:
            yield from leaves(value)
    else:
        yield content


def missing(html: str, content: Any) -> list[str]:
    """The numbers of a page that no number or text of the JSON has, rounded as the page rounds them."""
    values = [each for each in leaves(content) if isinstance(each, int | float) and not isinstance(each, bool)]
    texts = " ".join(each for each in leaves(content) if isinstance(each, str))
    written = {each.lstrip("+").replace(",", "") for each in re.findall(NUMBER, texts)}
    found = []
    for text in shown(html):
        digits = len(text.partition(".")[2])
        rounded = {f"{round(value, digits) or 0.0:.{digits}f}" for value in values}
        if text not in written and text not in rounded:
            found.append(text)
    return found


def test_json_has_every_number_of_the_page(comparison: Comparison) -> None:
    html, content = page(comparison), json.loads(json.dumps(numbers(comparison)))
    assert len(shown(html)) > 150
    assert missing(html, content) == []


def test_a_number_that_is_missing_is_noticed(comparison: Comparison) -> None:
    html, content = page(comparison), numbers(comparison)
    for part in ("curves", "settings", "conclusions", "images"):
        without = {key: value for key, value in content.items() if key != part}
        if part == "curves":
            for setting in without["settings"]:
                setting["runs"] = [{**run, "rows": []} for run in setting["runs"]]
        if part == "conclusions":
            without = {**without, "summary": []}
        assert missing(html, without), part


def test_numbers_of_runs_settings_and_classes(comparison: Comparison) -> None:
    content = numbers(comparison)
    a, b, c = content["settings"]
    assert (a["seeds"], c["seeds"]) == ([71, 72], [71])
    assert b["description"] == "optimizer.lr=0.002"
    first, second = b["runs"]
    assert (first["seed"], first["steps"], first["planned_steps"], first["best_epoch"]) == (71, 20, 20, 2)
    assert first["best"]["AP/cat"] == pytest.approx(100 * (0.2713 + 0.091))
    assert b["best"]["AP/cat"]["mean"] == pytest.approx((first["best"]["AP/cat"] + second["best"]["AP/cat"]) / 2)
    assert b["best"]["AP/cat"]["difference"] == pytest.approx(100 * 0.0091 * 6)
    assert first["rows"][0]["val/AP"] == 0.1137
    curve = next(each for each in content["curves"] if (each["title"], each["axis"]) == ("validation AP", "step"))
    assert curve["lines"]["A"][0] == {"step": 10, "mean": pytest.approx(17.055), "low": 11.37, "high": 22.74}
    assert content["images"]["rows"][0].keys() == {"file", "objects", "A", "B", "C"}
    assert len(content["images"]["rows"]) == 12


def test_a_metric_of_ones_own_evaluator_is_compared_as_it_is(comparison: Comparison) -> None:
    """Beside those that come along, and neither in points nor in percent."""
    assert comparison.metrics[-2:] == ["loss", "counted"]
    own = compare(comparison.runs, metric="counted", last=False)
    found = [run.metrics()["counted"] for setting in own.settings[:2] for run in setting.runs]
    difference = sum(found[2:]) / 2 - sum(found[:2]) / 2
    assert own.conclusions[0].difference == pytest.approx(difference)
    assert f"by {difference:.3f} counted" in own.summary[0] or f"difference {difference:.3f} counted" in own.summary[0]
