"""The exceptions that are meant for the user's eyes."""

import signal


class UserError(Exception):
    """A mistake of the user's: one line that says what is wrong, where, and how to mend it.

    Entry points print it without a traceback and exit non-zero (`detr.entry.user_errors`).
    """


class Interrupted(BaseException):
    """A signal asked for the end. As KeyboardInterrupt, it is nobody's error, and passes through `except Exception`."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"stopped by {number.name}")
        self.number = number

    @property
    def status(self) -> int:
        """The exit status, as shells have it."""
        return 128 + self.number
