"""`detr compare`, as users meet it, on synthetic folders and on a sweep that was really trained."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from command import TINY, run, run_cold
from run_folders import HIGHER, write_run


def compare(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run("-m", "detr", "compare", *arguments)


def flat(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two settings × two seeds, an epoch each."""
    folder = tmp_path_factory.mktemp("real")
    done = run(
        "train.py",
        "-m",
        *TINY,
        "trainer.max_epochs=1",
        "seed=0,1",
        "optimizer.lr=1e-3,1e-4",
        f"paths.data_root={folder}",
        f"hydra.sweep.dir={folder / 'sweep'}",
    )
    assert done.returncode == 0, done.stderr
    return folder / "sweep"


@pytest.mark.slow
def test_a_real_sweep_is_compared(sweep: Path, tmp_path: Path) -> None:
    page, numbers = tmp_path / "page.html", tmp_path / "numbers.json"
    done = compare(str(sweep), "--html", str(page), "--json", str(numbers))
    assert done.returncode == 0, done.stderr
    assert "A optimizer.lr=0.001 (seeds 0, 1)" in flat(done.stdout)
    assert "B optimizer.lr=0.0001 (seeds 0, 1)" in flat(done.stdout)
    content = json.loads(numbers.read_text())
    rows = [json.loads((sweep / job / "metrics.jsonl").read_text()) for job in "0123"]
    for setting, jobs in zip(content["settings"], ((0, 2), (1, 3)), strict=True):
        assert [Path(each["folder"]).name for each in setting["runs"]] == list(map(str, jobs))
        expected = [100 * rows[job]["val/AP"] for job in jobs]
        assert setting["best"]["AP"]["mean"] == pytest.approx(sum(expected) / 2)
        assert setting["best"]["AP"]["n"] == 2
        assert {each["state"] for each in setting["runs"]} == {"finished"}
    assert content["conclusions"][0]["method"] == "paired"
    assert content["differences"] == {"optimizer.lr": ["0.001", "0.0001"]}
    assert flat(content["conclusions"][0]["sentence"]) in flat(done.stdout)
    assert page.read_text().count("data:image/jpeg") == 8 * 3


@pytest.mark.slow
def test_single_runs_are_compared_on_their_images(sweep: Path) -> None:
    done = compare(str(sweep / "0"), str(sweep / "1"))
    assert done.returncode == 0, done.stderr
    assert "on these validation images; this says nothing about other seeds" in done.stdout


@pytest.mark.slow
def test_a_run_records_its_code(sweep: Path) -> None:
    facts = json.loads((sweep / "0" / "run.json").read_text())
    assert {"git", "hardware", "overrides", "choices"} <= facts.keys()
    assert "seed=0" in facts["overrides"]


def test_runs_without_metrics_are_named_and_skipped(tmp_path: Path) -> None:
    write_run(tmp_path / "good", [0.5])
    (write_run(tmp_path / "bad", [0.5], config=HIGHER) / "metrics.jsonl").unlink()
    done = compare(str(tmp_path / "good"), str(tmp_path / "bad"))
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"skipped: {tmp_path / 'bad'}: no rows in metrics.jsonl")
    assert "one run: 50.0 AP" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["RUN|SWEEP"]),
        (["nowhere"], ["nowhere", "no such folder"]),
        (["docs"], ["docs", "not a run"]),
        (["README.md"], ["README.md", "a file"]),
        (["docs", "--htm", "page.html"], ["--htm", "did you mean --html?"]),
        (["docs", "--epoch", "worst"], ["worst", "best", "last"]),
    ],
)
def test_a_mistake_is_answered_in_one_line(arguments: list[str], words: list[str]) -> None:
    done = compare(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    for word in words:
        assert word in line


def test_the_terminal_needs_no_torch(tmp_path: Path) -> None:
    write_run(tmp_path / "run", [0.5])
    program = (
        "import sys; from detr.commands.compare import main; sys.argv = ['compare', sys.argv[1]]; main(); "
        "assert 'torch' not in sys.modules and 'wandb' not in sys.modules"
    )
    done = run_cold("-c", program, str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
