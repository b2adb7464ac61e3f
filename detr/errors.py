"""The one exception that is meant for the user's eyes."""


class UserError(Exception):
    """A mistake of the user's: one line that says what is wrong, where, and how to mend it.

    Entry points print it without a traceback and exit non-zero (`detr.config.user_errors`).
    """
