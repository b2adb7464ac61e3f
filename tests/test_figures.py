"""The suite of benchmarks: `make bench` and `make bench-compare`."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import suite
from alternating import Comparison
from command import ROOT, run_cold
from figure import Figure, peak_memory

MEGABYTE = 2**20
FOUND = Comparison(ours=1.0, theirs=2.0, ratio=0.5, low=0.45, high=0.55)
FIGURE = Figure(name="a step", comparison=FOUND, what="ours with theirs", target=0.6, memory=(MEGABYTE, 2 * MEGABYTE))


def test_memory_is_what_a_task_adds_at_its_peak() -> None:
    found = peak_memory(partial(bytearray, 10 * MEGABYTE), partial(bytearray, 100 * MEGABYTE))
    assert found == pytest.approx((10 * MEGABYTE, 100 * MEGABYTE), abs=3 * MEGABYTE)  # the system counts roughly


def test_a_file_is_measured() -> None:
    assert "evaluation" in suite.files()
    (figure,) = suite.measured(["evaluation"], quick=True)
    assert 0 < figure.comparison.low <= figure.comparison.ratio <= figure.comparison.high < 1
    assert figure.comparison.ours < figure.comparison.theirs


def test_figures_are_kept_and_read_back(tmp_path: Path) -> None:
    kept = suite.record("abc", [FIGURE])
    suite.write_json(tmp_path / "figures.json", kept)
    (read,) = suite.figures_in(tmp_path / "figures.json")
    assert str(read) == str(FIGURE)
    text = suite.document(kept, [FIGURE, replace(FIGURE, name="missed", target=0.4)])
    assert "| a step | **0.500** | 0.450 to 0.550 | 0.6 | 1 / 2 | ours with theirs |" in text
    assert "| missed | 0.500 | 0.450 to 0.550 | 0.4 |" in text


@pytest.mark.parametrize(
    ("before", "verdict"),
    [
        ((0.5, 0.4, 0.6), "no difference beyond the spread"),
        ((0.8, 0.7, 0.9), "faster by 38%"),
        ((0.4, 0.35, 0.44), "SLOWER by 25%"),
    ],
)
def test_revisions_differ_by_more_than_their_spread(before: tuple[float, float, float], verdict: str) -> None:
    ratio, low, high = before
    earlier = replace(FIGURE, comparison=replace(FOUND, ratio=ratio, low=low, high=high))
    gone = replace(FIGURE, name="gone")
    line, last = suite.compared([FIGURE], [earlier, gone], "HEAD~1")
    assert line.endswith(verdict)
    assert last.startswith("gone: only in HEAD~1")


def test_turns_of_a_revision_are_one_figure() -> None:
    other = replace(FIGURE, comparison=replace(FOUND, ratio=0.7, low=0.6, high=0.8))
    (figure,) = suite.merged([FIGURE, other])
    assert figure.comparison == replace(FOUND, ratio=pytest.approx(0.6), low=0.45, high=0.8)


def test_an_unknown_revision_is_said_in_one_line() -> None:
    with pytest.raises(SystemExit, match="error: no-such-revision is no revision of this repository"):
        suite.compare("no-such-revision", ["evaluation"], quick=True)


@pytest.mark.slow
def test_every_figure_can_be_measured(tmp_path: Path) -> None:
    done = run_cold("benchmarks/suite.py", "--quick", "--json", str(tmp_path / "figures.json"), timeout=1800)
    assert done.returncode == 0, done.stderr
    assert "could not be measured" not in done.stderr, done.stderr
    assert len(suite.figures_in(tmp_path / "figures.json")) >= len(suite.files())


@pytest.mark.slow
def test_an_earlier_revision_is_measured_in_turns() -> None:
    if subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True).returncode:
        pytest.skip("not a git repository")
    done = run_cold("benchmarks/suite.py", "--compare", "HEAD", "--only", "evaluation", "--quick", timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("evaluation: ours") == 2 * suite.ROUNDS
    assert ", in HEAD " in done.stdout.splitlines()[-1]
