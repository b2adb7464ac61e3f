"""What jobs of a sweep print while others run beside them: every line says which job it is of."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


class Labelled(io.TextIOBase):
    """Passes on whole lines, each behind a label. It is no terminal: bars of several jobs would overwrite each other.

    Args:
        stream: where the lines go.
        label: in front of each of them.
    """

    def __init__(self, stream: TextIO, label: str) -> None:
        self.stream = stream
        self.label = label
        self._begun = ""  # the start of a line that is not finished

    def write(self, text: str) -> int:
        *whole, self._begun = (self._begun + text).split("\n")
        if whole:
            self.stream.write("".join(f"{self.label}  {line}\n" for line in whole))  # at once: lines stay whole
            self.stream.flush()
        return len(text)

    def end(self) -> None:
        """Pass on a line that has no end."""
        if self._begun:
            self.write("\n")

    def writable(self) -> bool:
        return True


@contextmanager
def labelled(label: str | None) -> Iterator[None]:
    """Put a label, if there is one, in front of every line that is printed or logged to the terminal meanwhile."""
    if label is None:
        yield
        return
    streams = {sys.stdout: Labelled(sys.stdout, label), sys.stderr: Labelled(sys.stderr, label)}
    logging_to = {
        handler: handler.stream
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream in streams
    }
    with contextlib.redirect_stdout(streams[sys.stdout]), contextlib.redirect_stderr(streams[sys.stderr]):
        for handler, stream in logging_to.items():
            handler.setStream(streams[stream])
        try:
            yield
        finally:
            for handler, stream in logging_to.items():
                handler.setStream(stream)
            for each in streams.values():
                each.end()
