"""One run as the monitor sees it: read anew only where its files have changed, and no further than they have grown."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from detr.config.recorded import CONFIG, noted
from detr.errors import UserError
from detr.files import is_held
from detr.tracking.identity import OUTWARD
from detr.tracking.rows import METRICS, Row, best_row
from detr.tracking.status import STATUS, RunStatus, read_status

PICTURES = "predictions"
SHOWN = 8  # pictures of a run
SETTLES = 10.0  # seconds in which a run that says "running" need not hold its folder yet
WATCHED = (METRICS, STATUS, "run.json", CONFIG, PICTURES)
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass
class Watched:
    """Holds what is known of a run.

    Attributes:
        number: by which the page asks for it.
        folder: where it lies.
        place: the same, as the page shows it.
        version: of the whole monitor, when the run changed last.
        series: changes when the rows are others, not only more.
    """

    number: int
    folder: Path
    place: str
    version: int = 0
    series: int = 0
    rows: list[Row] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    status: RunStatus = field(default_factory=RunStatus)
    monitor: str = "AP"
    state: str = ""
    pictures: list[str] = field(default_factory=list)
    _seen: dict[str, tuple[int, int, int] | None] = field(default_factory=dict)
    _read: int = 0  # bytes of metrics.jsonl

    def refresh(self) -> bool:
        """Read what has changed, and return whether anything that the page shows has."""
        now = {name: _signature(self.folder / name) for name in WATCHED}
        changed = {name for name in WATCHED if now[name] != self._seen.get(name, ())}
        if METRICS in changed:
            self._read_rows(self._seen.get(METRICS), now[METRICS])
        if STATUS in changed:
            self.status = _status(self.folder)
        if "run.json" in changed:
            self.facts = noted(self.folder)
        if CONFIG in changed:
            self.monitor = _monitor(self.folder / CONFIG)
        if PICTURES in changed:
            self.pictures = _pictures(self.folder / PICTURES)
        self._seen = now
        state = self._state()
        if state != self.state:
            self.state = state
            return True
        return bool(changed)

    def summary(self) -> dict[str, Any]:
        """Return what the page's table has, in plain numbers and texts."""
        last = self.rows[-1] if self.rows else {}
        best = best_row(self.rows, self.monitor)
        sweep = self.facts.get("sweep") or {}
        step, steps, seconds = last.get("step", 0), self.facts.get("steps"), last.get("train/seconds")
        left = (steps - step) * seconds / step if steps and step and seconds and self.state == "running" else None
        changed = [each[1] for each in self._seen.values() if each is not None]
        stamp = self._seen.get(PICTURES)
        return {
            "run": self.number,
            "place": self.place,
            "given": " ".join(_telling(map(str, sweep.get("differs") or self.facts.get("overrides") or []))),
            "experiment": (self.facts.get("choices") or {}).get("experiment"),
            "state": self.state,
            "said": self.status.error or self.status.ended or self.facts.get("ended"),
            "epoch": last.get("epoch", 0),
            "step": step,
            "steps": steps,
            "seconds": seconds,
            "left": left,  # seconds, when the last row was written
            "at": (self._seen.get(METRICS) or (0, 0, 0))[1] / 1e9,
            "monitor": self.monitor,
            "best": None if best is None else best[f"val/{self.monitor}"],
            "best_epoch": None if best is None else best["epoch"],
            "loss": last.get("train/loss"),
            "started": (self._seen.get(CONFIG) or (0, 0, 0))[1] / 1e9,
            "changed": max(changed, default=0) / 1e9,
            "pictures": [f"{name}?at={stamp[1]}" for name in self.pictures] if stamp else [],
            "card": (self.folder / "README.md").is_file(),
        }

    def _state(self) -> str:
        if self.status.status in ("finished", "failed"):
            return self.status.status
        if is_held(self.folder):
            return "running"
        stamp = self._seen.get(STATUS)
        if self.status.status == "running" and stamp and time.time() - stamp[1] / 1e9 < SETTLES:
            return "running"
        steps = self.facts.get("steps")
        if self.status.status == "waiting" and steps and self.rows and self.rows[-1]["step"] >= steps:
            return "finished"  # of a revision that wrote no status
        return "interrupted" if self.rows or self.status.status == "running" else "waiting"

    def _read_rows(self, before: tuple[int, int, int] | None, now: tuple[int, int, int] | None) -> None:
        """Whole lines only; a file that was replaced, or has become shorter, is read from its start."""
        if now is None or before is None or before[0] != now[0] or now[2] < self._read:
            self.rows, self._read, self.series = [], 0, self.series + 1
        if now is None:
            return
        try:
            with open(self.folder / METRICS, "rb") as stream:
                stream.seek(self._read)
                content = stream.read()
        except OSError:
            return
        whole = content[: content.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            row = _row(line)
            if row is not None:
                self.rows.append(row)


def _telling(overrides: Iterable[str]) -> list[str]:
    """Those that say something about the experiment."""
    return [each for each in overrides if not each.lstrip("+~").startswith((*OUTWARD, "dataset.root"))]


def _row(line: bytes) -> Row | None:
    """None for what is no row."""
    try:
        row = json.loads(line)
        numbers = {str(key): value for key, value in row.items() if isinstance(value, int | float)}
        finite = {key: value for key, value in numbers.items() if math.isfinite(value)}
        return {**finite, "epoch": int(row["epoch"]), "step": int(row["step"])}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _signature(path: Path) -> tuple[int, int, int] | None:
    """Of a file: which it is, when it was written (ns), how long it is."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _status(folder: Path) -> RunStatus:
    try:
        return read_status(folder)
    except (OSError, ValueError, TypeError, UserError):
        return RunStatus()


def _monitor(path: Path) -> str:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=LOADER)
        return str(content["trainer"]["monitor"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return "AP"


def _pictures(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(".jpg"))[:SHOWN]
    except OSError:
        return []
