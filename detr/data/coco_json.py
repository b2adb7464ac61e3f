"""Entries of COCO's JSON files, checked one by one: what is wrong is said with file, kind and id."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detr.errors import UserError
from detr.files import uncollected

MAX_COORDINATE = 1e9  # pixels; beyond it (or NaN) a number is no coordinate

Item = dict[str, Any]


def load(path: Path) -> Item:
    """Return a file's content. Raises UserError if it is missing or not a JSON object."""
    try:
        with uncollected():
            content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: no such annotation file; set dataset.root or dataset.*.annotations") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check dataset.*.annotations") from None
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        reason = str(error).replace("\n", " ")
        raise UserError(f"{path}: not valid JSON ({reason}); export the annotations again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not COCO format: expected a JSON object, got a {type(content).__name__}")
    return content


def items_of(path: Path, content: Item, key: str) -> list[Item]:
    """Return the list of objects under a key. Raises UserError if it is none."""
    if key not in content:
        raise UserError(f'{path}: not COCO format: the key "{key}" is missing; export the annotations as COCO JSON')
    items = content[key]
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise UserError(f'{path}: not COCO format: "{key}": expected a list of objects')
    return items


def name_of(item: Item, position: int) -> str:
    """Return how an error names an entry: its id, or its place where it has none."""
    return str(item["id"]) if isinstance(item.get("id"), int) else f"number {position}"


def integers(path: Path, what: str, items: list[Item], key: str) -> NDArray[np.int64]:
    """Return [n] the whole number under a key of each entry. Raises UserError if one is none."""
    values: list[Any] = [item.get(key) for item in items]
    if set(map(type, values)) <= {int}:  # as nearly always, and ten times as fast as one by one
        with contextlib.suppress(OverflowError):
            return np.array(values, dtype=np.int64)
    for position, item in enumerate(items):
        if not is_whole(item.get(key)):
            found = f"got {str(item[key])[:60]!r}" if key in item else "but it is missing"
            raise UserError(f'{path}: {what} {name_of(item, position)}: "{key}": expected a whole number, {found}')
    return np.array([int(value) for value in values], dtype=np.int64)


def is_whole(value: object) -> bool:
    """Return whether it fits an int64; 640.0 counts, as some exporters write sizes like this."""
    if isinstance(value, float):
        return value.is_integer() and abs(value) < 2**63
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def flags(path: Path, what: str, items: list[Item], key: str) -> NDArray[np.bool_]:
    """Return [n] the flag under a key of each entry, False where there is none. Raises UserError if one is no flag."""
    values = [item.get(key) for item in items]
    if set(map(type, values)) <= {int, type(None)} and set(values) <= {0, 1, None}:
        return np.array(values, dtype=np.bool_)
    for position, item in enumerate(items):
        if not is_flag(item.get(key)):
            raise UserError(f"{path}: {what} {name_of(item, position)}: {flag_expected(key, item[key])}")
    return np.array(values, dtype=np.bool_)


def is_flag(value: object) -> bool:
    """Return whether it is 0, 1, false, true or null: a text is not, since bool("0") is True."""
    return value is None or (isinstance(value, (int, float)) and value in (0, 1))


def flag_expected(key: str, value: object) -> str:
    """Return what an error says of a value that is no flag."""
    return f'"{key}": expected 0, 1, false, true or null, got {str(value)[:60]!r}; write 0 or 1, without quotes'


def strings(path: Path, what: str, items: list[Item], key: str) -> list[str]:
    """Return [n] the text under a key of each entry. Raises UserError if one is missing or empty."""
    for position, item in enumerate(items):
        value = item.get(key)
        if not isinstance(value, str) or not value:
            found = f"got {value!r}" if key in item else "but it is missing"
            raise UserError(f'{path}: {what} {name_of(item, position)}: "{key}": expected a text, {found}')
    return [item[key] for item in items]


def unique(path: Path, what: str, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the ids themselves. Raises UserError if one occurs twice."""
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        repeated = values[counts > 1]
        raise UserError(
            f"{path}: {what} id {repeated[0]} occurs {counts[counts > 1][0]} times "
            f"({len(repeated)} ids occur more than once); give every {what} its own id"
        )
    return ids


def check_sizes(path: Path, image_ids: NDArray[np.int64], sizes: NDArray[np.int64]) -> None:
    """Raise UserError if an image has no extent. `sizes`: [I, 2] (height, width)."""
    wrong = np.flatnonzero((sizes <= 0).any(axis=1))
    if len(wrong):
        height, width = sizes[wrong[0]]
        raise UserError(
            f"{path}: image {image_ids[wrong[0]]}: expected a positive width and height, got {width} × {height}"
        )


def categories_of(path: Path, content: Item) -> dict[int, str]:
    """Return id -> name. Raises UserError if an id or a name stands for two categories."""
    items = items_of(path, content, "categories")
    ids = unique(path, "category", integers(path, "category", items, "id"))
    names = strings(path, "category", items, "name")
    table = dict(zip(ids.tolist(), names, strict=True))
    first_of: dict[str, int] = {}
    for category_id, name in table.items():
        if name in first_of:
            raise UserError(
                f'{path}: categories {first_of[name]} and {category_id} are both named "{name}"; rename one'
            )
        first_of[name] = category_id
    return table


def is_coordinate(value: object) -> bool:
    """Return whether it is a finite number of pixels."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and -MAX_COORDINATE < value < MAX_COORDINATE  # type: ignore[operator]  # NaN compares False
