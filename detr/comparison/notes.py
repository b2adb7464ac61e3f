"""What a reader must know before believing a comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from detr.comparison.reading import Run
from detr.comparison.settings import Grouping, Setting

ALIKE = 1.1  # minutes of training that differ by less are no news


def notes(grouping: Grouping, *, last: bool) -> list[str]:
    """Return one sentence for each thing."""
    settings = grouping.settings
    runs = [run for setting in settings for run in setting.runs]
    found = [_selection(runs, last), _length(settings), *_states(runs), _revisions(settings), _processes(settings)]
    return [*grouping.notes, *filter(None, found)]


def _selection(runs: Sequence[Run], last: bool) -> str:
    if last or all(run.best == run.last for run in runs):
        return ""
    monitors = sorted({run.monitor for run in runs})
    return (
        f"numbers are of each run's best epoch by {' or '.join(monitors)} on the validation split itself, so they are "
        "somewhat too good; the last epoch has no such choice (--epoch last)"
    )


def _length(settings: Sequence[Setting]) -> str:
    """Only where it differs: by steps, epochs or minutes."""
    steps = {setting.letter: _range(setting, lambda run: run.steps) for setting in settings}
    minutes = {s.letter: float(np.mean([run.minutes or 0 for run in s.runs])) for s in settings}
    same_minutes = max(minutes.values()) <= ALIKE * min(minutes.values())
    if len(set(steps.values())) == 1 and same_minutes:
        return ""
    each = "; ".join(f"{name} {steps[name]} steps in {minutes[name]:.1f} minutes" for name in steps)
    return f"the settings were not trained for equally long: {each}"


def _range(setting: Setting, of: Callable[[Run], int]) -> str:
    low, high = min(map(of, setting.runs)), max(map(of, setting.runs))
    return f"{low}" if low == high else f"{low} to {high}"


def _states(runs: Sequence[Run]) -> list[str]:
    return [
        f"{run.folder} is {run.state} after {run.epochs} epochs, {run.steps} steps"
        + (f": {run.error}" if run.state == "failed" else "")
        for run in runs
        if run.state != "finished"
    ]


def _revisions(settings: Sequence[Setting]) -> str:
    """Of the code; nothing where no run recorded it."""
    by_setting = {s.letter: sorted({run.revision or "unknown" for run in s.runs}) for s in settings}
    known = {revision for found in by_setting.values() for revision in found}
    if known == {"unknown"}:
        return ""
    if len(known) > 1:
        each = "; ".join(f"{name} {', '.join(map(_short, found))}" for name, found in by_setting.items())
        return f"the code was not the same: {each}"
    if any(revision.endswith("-dirty") for revision in known):
        return f"the code had uncommitted changes ({_short(*known)}), so it may not have been the same"
    return ""


def _processes(settings: Sequence[Setting]) -> str:
    """How many trained together, where runs recorded it: batches, and losses normalised by process, depend on it."""
    counts = {s.letter: sorted({run.facts.get("processes", 1) for run in s.runs}) for s in settings}
    if len({count for found in counts.values() for count in found}) < 2:
        return ""
    each = "; ".join(f"{name} {', '.join(map(str, found))}" for name, found in counts.items())
    return f"the number of processes was not the same: {each}"


def _short(revision: str) -> str:
    sha, dash, dirty = revision.partition("-")
    return f"{sha[:8]}{dash}{dirty}"
