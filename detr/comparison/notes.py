"""What a reader must know before believing a comparison."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detr.comparison.evaluations import VALIDATION
from detr.comparison.reading import Run
from detr.comparison.settings import Grouping, Setting
from detr.tracking.words import count, duration

ALIKE = 1.1  # minutes of training that differ by less are no news
MOMENT = 1 / 6  # nor are so few minutes


def notes(grouping: Grouping, *, last: bool) -> list[str]:
    """Return one sentence for each thing."""
    settings = grouping.settings
    runs = [run for setting in settings for run in setting.runs]
    found = [
        _evaluations(runs) if settings[0].data.split != VALIDATION else _selection(runs, last),
        _length(settings),
        *_states(runs),
        *_stopped(runs),
        _revisions(settings),
        _processes(settings),
    ]
    return [*grouping.notes, *filter(None, found)]


def _selection(runs: Sequence[Run], last: bool) -> str:
    if last or all(run.best == run.last for run in runs):
        return ""
    monitors = sorted({run.monitor for run in runs})
    return (
        f"numbers are of each run's best epoch by {' or '.join(monitors)} on the validation split itself, so they are "
        "somewhat too good; the last epoch has no such choice (--epoch last)"
    )


def _evaluations(runs: Sequence[Run]) -> str:
    """Which checkpoints were evaluated, where they are not all the best ones."""
    names = {run.evaluation.checkpoint for run in runs if run.evaluation is not None}
    return (
        "" if len(names) < 2 else f"the checkpoints that were evaluated are not of one kind: {', '.join(sorted(names))}"
    )


def _length(settings: Sequence[Setting]) -> str:
    """Only where it differs: by steps, or by minutes that runs recorded."""
    steps = {setting.letter: _range(setting) for setting in settings}
    minutes = {s.letter: [run.minutes for run in s.runs if run.minutes is not None] for s in settings}
    means = {name: float(np.mean(found)) for name, found in minutes.items() if found}
    shortest, longest = min(means.values(), default=0), max(means.values(), default=0)
    if len(set(steps.values())) == 1 and longest <= max(ALIKE * shortest, shortest + MOMENT):
        return ""
    each = "; ".join(f"{name} {steps[name]}" + _in(means.get(name)) for name in steps)
    return f"the settings were not trained for equally long: {each}"


def _range(setting: Setting) -> str:
    low, high = min(run.steps for run in setting.runs), max(run.steps for run in setting.runs)
    return count(low, "step") if low == high else f"{low:,} to {count(high, 'step')}"


def _in(minutes: float | None) -> str:
    return "" if minutes is None else f" in {duration(minutes)}"


def _states(runs: Sequence[Run]) -> list[str]:
    return [
        f"{run.place} is {run.state} after {count(run.epochs, 'epoch')}, {count(run.steps, 'step')}" + _why(run)
        for run in runs
        if run.state != "finished"
    ]


def _why(run: Run) -> str:
    reason = run.error if run.state == "failed" else run.ended
    return f": {reason}" if reason else ""


def _stopped(runs: Sequence[Run]) -> list[str]:
    """Of those that ended before their last step for a reason of their own."""
    return [
        f"{run.place} was {run.ended}"
        for run in runs
        if run.state == "finished" and run.ended and run.steps < run.facts.get("steps", 0)
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
