"""Numbers of things in plain words, and lines of logs."""

from __future__ import annotations

import logging

from detr.texts import visible


class LineFormatter(logging.Formatter):
    """Formats a message in one line, whatever names of a user's are in it; a traceback stays below."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's
        record.message = visible(record.message)
        return super().formatMessage(record)


def count(number: int, noun: str) -> str:
    """Return "1 step", "2 steps"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(minutes: float) -> str:
    """Return a time in the unit that suits it: 0.4 s, 12 s, 1.5 min, 2.5 h."""
    seconds = 60 * minutes
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    return f"{minutes:.1f} min" if minutes < 119.95 else f"{minutes / 60:.1f} h"
