"""All runs below a folder: found, followed, and told to pages that have seen some of it already."""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from detr.monitoring.watched import PICTURES, Watched
from detr.tracking.runs import trainings_below

FRESH = 1.0  # seconds in which nobody looks again, however many pages ask


class Monitor:
    """Follows the runs below a folder; safe for several threads.

    Args:
        folder: where they lie, at any depth.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.session = secrets.token_hex(8)  # a page of an earlier monitor begins anew
        self.version = 0
        self._runs: dict[Path, Watched] = {}
        self._numbers: dict[int, Watched] = {}
        self._gone: list[tuple[int, int]] = []  # version, number
        self._looked = -FRESH
        self._lock = threading.Lock()

    def look(self) -> None:
        """Look for new runs, and at those that are known."""
        if time.monotonic() - self._looked < FRESH:
            return
        found = dict.fromkeys(trainings_below(self.folder))
        changed = []
        for folder in found:
            run = self._runs.get(folder)
            if run is None:
                place = "." if folder == self.folder else str(folder.relative_to(self.folder))
                run = self._runs[folder] = self._numbers[len(self._numbers)] = Watched(
                    len(self._numbers), folder, place
                )
            if run.refresh() or run.version == 0:
                changed.append(run)
        gone = [folder for folder in self._runs if folder not in found]
        if changed or gone:
            self.version += 1
        for run in changed:
            run.version = self.version
        for folder in gone:
            self._gone.append((self.version, self._runs.pop(folder).number))
        self._looked = time.monotonic()

    def changes(self, session: str, since: int) -> dict[str, Any]:
        """Return what a page does not know yet: it has seen everything up to the version `since` of a session."""
        with self._lock:
            self.look()
            since = since if session == self.session else 0
            return {
                "session": self.session,
                "version": self.version,
                "folder": str(self.folder),
                "now": time.time(),
                "runs": [run.summary() for run in self._runs.values() if run.version > since],
                "gone": [number for version, number in self._gone if version > since],
            }

    def rows(self, number: int, series: int, start: int) -> dict[str, Any] | None:
        """Return the rows of a run from `start` on, all of them where the page has those of another series.

        AP by class stays out. None: there is no such run.
        """
        with self._lock:
            run = self._numbers.get(number)
            if run is None:
                return None
            start = start if series == run.series else 0
            rows = [{key: row[key] for key in row if "/AP/" not in key} for row in run.rows[start:]]
            return {"run": number, "series": run.series, "start": start, "rows": rows}

    def folder_of(self, number: int) -> Path | None:
        """Return the folder of a run; None where there is no such run."""
        run = self._numbers.get(number)
        return None if run is None else run.folder

    def picture(self, number: int, name: str) -> Path | None:
        """Return the file of a picture of a run; None where it has none of this name."""
        run = self._numbers.get(number)
        return run.folder / PICTURES / name if run is not None and name in run.pictures else None

    def states(self) -> Counter[str]:
        """Return how many runs are in which state."""
        with self._lock:
            self.look()
            return Counter(run.state for run in self._runs.values())
