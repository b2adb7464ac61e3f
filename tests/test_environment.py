from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import subprocess
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from detr.environment import git_sha, hardware, keep_freed_memory, resolve_device, seed_everything
from detr.errors import UserError


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=T", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", *identity, "-C", str(root), *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_revision_of_a_clean_a_changed_and_no_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_sha(tmp_path) is None
    git(tmp_path, "init")
    assert git_sha(tmp_path) is None, "no commit yet"
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "Begin")
    sha = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "untracked").write_text("")
    assert git_sha(tmp_path) == sha
    (tmp_path / "file").write_text("two")
    assert git_sha(tmp_path) == f"{sha}-dirty"


def test_no_git_is_no_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_sha(Path(__file__).parent) is None


def test_hardware_is_plain_and_says_something() -> None:
    described = hardware()
    assert json.loads(json.dumps(described)) == described
    assert described["cpu_cores"] >= 1
    assert described["cpu"]
    assert described["torch"] == torch.__version__


def test_a_seed_repeats_every_source_of_randomness() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), torch.rand(()).item()

    seed_everything(7)
    first = draw()
    following = draw()
    seed_everything(7)
    assert draw() == first
    assert all(one != other for one, other in zip(first, following, strict=True))
    seed_everything(2**40)  # NumPy alone would refuse it


def test_auto_is_the_best_there_is_and_cpu_is_always_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert resolve_device("auto") == torch.device(expected)


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "cpu:3", "cuda:x", "meta", ""])
def test_an_unknown_or_absent_device_is_named(name: str) -> None:
    with pytest.raises(UserError, match=f"trainer.device={name} is no") as caught:
        resolve_device(name)
    assert "\n" not in str(caught.value)


def pages_cleared(keep: bool, variable: str) -> int:
    """How many times the system hands over a page while ten large blocks come and go."""
    if variable:
        os.environ[variable] = "131072"
    if keep:
        keep_freed_memory()
    bytearray(2**26)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        bytearray(2**26)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_memory_that_was_freed_is_used_again_unless_the_user_has_said_what_malloc_does() -> None:
    each = 10 * 2**26 // resource.getpagesize()
    faults = []
    for case in ((False, ""), (True, ""), (True, "MALLOC_TRIM_THRESHOLD_")):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as process:
            faults.append(process.submit(pages_cleared, *case).result())
    if faults[0] < each / 2:
        pytest.skip("this system keeps freed memory by itself")
    assert faults[1] < each / 5
    assert faults[2] > each / 2
