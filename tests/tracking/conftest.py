"""Offline runs that touch nothing but their test's folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

NAMES = ("MODE", "API_KEY", "RUN_ID", "NAME", "TAGS", "RUN_GROUP", "SWEEP_ID", "BASE_URL", "PROJECT", "ENTITY")


@pytest.fixture
def wandb_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb_home"))
    for name in NAMES:
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # no ~/.netrc with a key
    yield
    import wandb

    with contextlib.suppress(ConnectionError):  # of a test that ended wandb's own process
        wandb.teardown()
