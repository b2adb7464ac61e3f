"""When in a run an image is read, for transforms that change with it; the same in all processes and after resuming."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_part: ContextVar[float] = ContextVar("part of the run", default=0.0)


def part_of_the_run() -> float:
    """Return the part of the run that is over before the step of the image that is read now, in [0, 1]; else 0."""
    return _part.get()


@contextmanager
def when(part: float) -> Iterator[None]:
    """Let images be read as when so much of the run is over."""
    token = _part.set(part)
    try:
        yield
    finally:
        _part.reset(token)
