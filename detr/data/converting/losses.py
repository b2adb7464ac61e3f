"""What a format cannot hold, counted while it is written: a line a kind, and never silently."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator


class Losses:
    """Counts what is lost or changed on the way into another format."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, kind: str, count: int = 1) -> None:
        """Count `kind`, a sentence with {} where the number stands."""
        if count:
            self._counts[kind] += count

    def once(self, kind: str, count: int) -> None:
        """Count `kind` as `add` does, but the same things in every split."""
        if count:
            self._counts[kind] = count

    def lines(self) -> Iterator[str]:
        """Yield a line each, most frequent first."""
        for kind, count in self._counts.most_common():
            yield kind.replace("{}", f"{count:,}", 1)
