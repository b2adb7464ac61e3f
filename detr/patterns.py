"""Regular expressions that a config gives."""

from __future__ import annotations

import re
from collections.abc import Iterable


def check_patterns(key: str, patterns: Iterable[str]) -> None:
    """Raise ValueError, which names the key, if one of them is not a regular expression."""
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{key}: expected a regular expression, got {pattern} ({error})") from error
