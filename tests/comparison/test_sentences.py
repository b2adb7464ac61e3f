"""No sentence is nonsense, whatever the numbers: checked on runs whose metrics are drawn at random."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detr.comparison.comparison import Comparison, compare
from detr.comparison.reading import Run
from detr.config.recorded import Recorded
from detr.tracking.status import RunStatus
from detr.tracking.words import count, duration

# Differences of every size, so that settings are equal, nearly equal and far apart.
SIZES = st.sampled_from([0.0, 1e-7, 1e-5, 1e-4, 1e-2, 0.3])
THINGS = "(?:step|seed|epoch|run|setting|image|minute)"
SECONDS = st.one_of(st.none(), st.floats(0, 10), st.floats(0, 1e6))


def run_of(place: str, lr: float, seed: int, ap: float, **facts: Any) -> Run:
    """A run of one epoch."""
    config = {
        "dataset": {"root": "data"},
        "optimizer": {"lr": lr},
        "trainer": {"max_epochs": facts.pop("max_epochs", 1), "monitor": "AP"},
        "seed": seed,
    }
    row = {"epoch": 1, "step": facts.pop("step", 1), "val/AP": ap, "val/loss": 1 + ap}
    seconds = facts.pop("seconds", None)
    rows = [row if seconds is None else row | {"train/seconds": seconds}]
    return Run(place, Recorded(config, [], Path(place), Path()), rows, facts, RunStatus())


@st.composite
def comparisons(draw: st.DrawFn) -> Comparison:
    """Two or three settings with one to three seeds each."""
    metric = draw(st.sampled_from(["AP", "loss"]))
    same, runs = draw(st.booleans()), []
    for lr in range(draw(st.integers(2, 3))):
        first, epochs = 0 if same else 10 * lr, draw(st.integers(1, 2))
        level, spread = draw(SIZES), draw(SIZES)
        for seed in range(first, first + draw(st.integers(1, 3))):
            facts = {"step": draw(st.integers(1, 3)), "seconds": draw(SECONDS), "max_epochs": epochs}
            ap = min(1.0, level + spread * draw(st.floats(0, 1)))
            runs.append(run_of(f"runs/{lr}/{seed}", lr, seed, ap, **facts))
    return compare(runs, metric=metric, last=draw(st.booleans()))


@given(comparisons())
def test_every_sentence_makes_sense(comparison: Comparison) -> None:
    for line in [comparison.title, *comparison.summary, *comparison.notes]:
        assert not re.search(rf"(?<![\d.,/])1 {THINGS}s\b", line), line
        assert not re.search(rf"(?<![\d.,/])(?!1 )\d[\d,]* {THINGS}\b", line), line
        assert not re.search(r"nan|inf\b|None|-0\.0+\b", line), line
        assert not re.search(r" 0(?:\.0)? (?:s|min|minutes|h)\b", line) or min(seconds(comparison), default=0) < 0.05


def seconds(comparison: Comparison) -> list[float]:
    return [60 * run.minutes for run in comparison.runs if run.minutes is not None]


@given(comparisons())
def test_numbers_say_what_the_words_say(comparison: Comparison) -> None:
    for each in comparison.conclusions:
        sentence = each.sentence()
        found = re.search(r"(-?[\d.]+) (?:AP|loss)", sentence)
        if each.difference is not None and found:
            assert float(found[1]) != 0 or abs(each.difference) < 1e-9, sentence
            assert abs(abs(float(found[1])) - abs(each.difference)) <= 0.05, sentence
        if each.interval is None or "interval" not in sentence:
            continue
        bounds = re.search(r"interval (-?[\d.]+) to (-?[\d.]+)", sentence)
        assert bounds is not None, sentence
        low, high = map(float, bounds.groups())
        assert low < high, sentence
        assert (low > 0 or high < 0) == (each.verdict in ("better", "worse")), sentence
        if each.verdict in ("better", "worse"):
            assert low > 0, sentence
        else:
            assert low <= 0 <= high, sentence


def sentence(a: list[float], b: list[float], *, shift: int = 0) -> str:
    """Of two settings with the APs of their seeds."""
    runs = [run_of(f"a/{seed}", 1, seed, ap) for seed, ap in enumerate(a)]
    runs += [run_of(f"b/{seed}", 2, seed + shift, ap) for seed, ap in enumerate(b)]
    return compare(runs, metric="AP", last=False).conclusions[0].sentence()


def test_small_and_missing_differences() -> None:
    assert sentence([0.4, 0.5], [0.4, 0.5]) == "A and B have the same AP with every seed: 2 seeds"
    assert sentence([0.5, 0.5], [0.5, 0.5], shift=5) == (
        "A and B have the same AP with every seed: 2 seeds each, not the same ones"
    )
    assert sentence([0.4, 0.5], [0.41, 0.51]) == (
        "B is better than A by 1.0 AP, the same difference with every seed, 2 seeds"
    )
    tiny = sentence([0.4, 0.4, 0.4], [0.40001, 0.40001, 0.400011])
    assert tiny == "B is better than A by 0.001 AP, 95 % interval 0.0009 to 0.0012, 3 seeds"
    assert sentence([0.4], [0.4, 0.5]).startswith("A and B: difference 5.0 AP; A has one seed only")
    assert sentence([0.45], [0.4, 0.5]).startswith("A and B: the same AP; A has one seed only")


def test_a_run_of_a_moment_is_not_of_no_minutes() -> None:
    runs = [run_of("a", 1, 0, 0.4, step=1, seconds=0.6), run_of("b", 2, 0, 0.4, step=3, seconds=130.0)]
    (note,) = [note for note in compare(runs, metric="AP", last=False).notes if "equally long" in note]
    assert note == "the settings were not trained for equally long: A 1 step in 0.6 s; B 3 steps in 2.2 min"
    runs = [run_of("a", 1, 0, 0.4, seconds=0.6), run_of("b", 2, 0, 0.4, seconds=1.2)]
    assert not compare(runs, metric="AP", last=False).notes, "a second more or less is no news"


@pytest.mark.parametrize(
    ("minutes", "words"),
    [(0.0, "0.0 s"), (0.01, "0.6 s"), (0.2, "12 s"), (0.995, "1.0 min"), (1.5, "1.5 min"), (150.0, "2.5 h")],
)
def test_times_have_the_unit_that_suits_them(minutes: float, words: str) -> None:
    assert duration(minutes) == words


def test_things_are_counted() -> None:
    assert [count(number, "step") for number in (0, 1, 2, 1000)] == ["0 steps", "1 step", "2 steps", "1,000 steps"]
