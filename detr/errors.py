"""The exceptions that are meant for the user's eyes."""

import signal


class UserError(Exception):
    """Reports a mistake of the user's in one line: what is wrong, where, and how to mend it.

    Entry points print it without a traceback and exit non-zero (`detr.entry.user_errors`).
    """


class OccupiedError(UserError):
    """Reports that a folder belongs to another run, in which nothing must be written, the log included."""


class Interrupted(BaseException):
    """Says that a signal asked for the end. As a KeyboardInterrupt, it passes through `except Exception`."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"stopped by {number.name}")
        self.number = number

    @property
    def status(self) -> int:
        """Return the exit status, as shells have it."""
        return 128 + self.number
