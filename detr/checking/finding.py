"""What a check finds: of which kind it is, how bad, where, and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["error", "damage", "hint"]  # training would stop; it would learn something wrong; worth a look

SEVERITIES: dict[Severity, int] = {"error": 0, "damage": 1, "hint": 2}  # the worst first
MAX_PLACES = 1000  # of one finding that are kept; all are counted
MAX_DETAIL = 200  # characters


@dataclass(frozen=True)
class Place:
    """Says where a fault is. What is unknown, or does not apply, is None."""

    file: str | None = None  # the image; of a fault in the annotations themselves, their file
    image_id: int | None = None
    annotation_id: int | None = None
    detail: str = ""  # what stands there
    like: str | None = None  # another image, that this one repeats
    box: tuple[float, ...] | None = None  # xywh in pixels, of a likely label error
    score: float | None = None  # how sure a detector is of it, 0 to 1

    def __str__(self) -> str:
        words = f"annotation {self.annotation_id} of " if self.annotation_id is not None else ""
        words += self.file or ""
        words += f" (image {self.image_id})" if self.image_id is not None else ""
        return ", ".join(filter(None, [words, self.detail]))


@dataclass(frozen=True)
class Finding:
    """Holds what one check found in one split, or between splits."""

    check: str
    severity: Severity
    split: str
    what: str
    todo: str
    count: int
    places: list[Place]

    @property
    def message(self) -> str:
        """Return one line: what, how often, one example, what to do."""
        example = str(self.places[0]) if self.places else ""
        if self.count > 1:
            example = f"{self.count}, such as {example}"
        return f"{self.what}{': ' if example else ''}{example}; {self.todo}"

    def to_dict(self) -> dict[str, Any]:
        """Return what the JSON file has of it."""
        return asdict(self) | {"message": self.message, "places": [asdict(each) for each in self.places]}


KINDS: dict[str, Kind] = {}  # every check there is, by name


@dataclass(frozen=True)
class Kind:
    """Describes a fault that a check looks for."""

    name: str
    severity: Severity
    what: str
    todo: str

    def __post_init__(self) -> None:
        if self.name in KINDS:
            raise ValueError(f"two checks are called {self.name}")
        KINDS[self.name] = self

    def found(self, split: str, places: Sequence[Place], *, count: int | None = None) -> Iterator[Finding]:
        """Yield one finding, or nothing where there are no places.

        Args:
            split: where.
            places: the first of them, the best example in front.
            count: of all of them; None: `places` has all.
        """
        if places:
            kept = list(places[:MAX_PLACES])
            yield Finding(
                self.name, self.severity, split, self.what, self.todo, len(places) if count is None else count, kept
            )


class Faults:
    """Collects faults of many kinds while something is read entry by entry."""

    def __init__(self, split: str) -> None:
        self.split = split
        self._places: dict[Kind, list[Place]] = {}
        self._counts: dict[Kind, int] = {}

    def add(self, kind: Kind, place: Place) -> None:
        self._counts[kind] = self._counts.get(kind, 0) + 1
        places = self._places.setdefault(kind, [])
        if len(places) < MAX_PLACES:
            places.append(place)

    def findings(self) -> Iterator[Finding]:
        """Yield one for each kind."""
        for kind, places in self._places.items():
            yield from kind.found(self.split, places, count=self._counts[kind])


def shown(value: object) -> str:
    """Return a value from a file, short enough for a line."""
    return repr(value)[:60]
