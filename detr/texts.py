"""Texts of users' and for them: what a terminal can show, commands that can be pasted, patterns of a config."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

# Control characters, lone surrogates (bytes of file names that are no UTF-8), ends of lines, changes of direction.
UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u202a-\u202e\u2066-\u2069]")
# What Markdown would take for mark-up, in the middle of a line. Names have underscores inside.
MARKUP = re.compile(r"[\\*`<\[&|~$]|(?<![^\W_])_|_(?![^\W_])")
# Paths and names that mean themselves in Hydra's grammar and in every shell.
PLAIN = re.compile(
    r"[\w.:@%+-]*/[\w./:@%+-]*|(?!(?:null|true|false|inf|nan)\Z)[a-z_][\w-]*", flags=re.ASCII | re.IGNORECASE
)


def visible(text: object) -> str:
    """Return a text in one line, in which what has no shape is an escape (`\\x1b`): nothing moves the cursor."""
    return UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def in_markdown(text: object) -> str:
    """Return a text in one line that Markdown shows as it is, also in the cell of a table."""
    return MARKUP.sub(r"\\\g<0>", visible(text))


def pasted(*words: str | Path, **values: Any) -> str:
    """Return words and overrides of a command as a shell and then Hydra read them back, whatever is in a folder's name.

    `pasted("detr", "evaluate", checkpoint="lr=0.1/best.pt")`; the dots of a key are written as `hydra__run__dir`.
    """
    overrides = [f"{key.replace('__', '.')}={in_hydra(value)}" for key, value in values.items()]
    return shlex.join([*map(str, words), *overrides])


def in_hydra(value: Any, *, interpolated: bool = False) -> str:
    """Return a value as Hydra's grammar of overrides has it.

    Args:
        value: of YAML's kinds, or a path.
        interpolated: whether `${…}` in a text is to be filled in, instead of meaning itself.
    """
    if isinstance(value, list | tuple):
        return f"[{','.join(in_hydra(each, interpolated=interpolated) for each in value)}]"
    if isinstance(value, Mapping):
        items = (f"{key}: {in_hydra(each, interpolated=interpolated)}" for key, each in value.items())
        return f"{{{','.join(items)}}}"
    if not isinstance(value, str | Path):
        return json.dumps(value)
    text = str(value)
    if PLAIN.fullmatch(text):
        return text
    if not interpolated:
        text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    # Backslashes mean themselves, but before a quotation mark.
    return '"' + re.sub(r'(\\*)("|\Z)', lambda found: 2 * found[1] + found[2].replace('"', '\\"'), text) + '"'


def check_patterns(key: str, patterns: Iterable[str]) -> None:
    """Raise ValueError, which names the key, if one of them is not a regular expression."""
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{key}: expected a regular expression, got {pattern} ({error})") from error


def name_rule(pattern: str, replacement: str) -> tuple[re.Pattern[str], str]:
    """Return a regular expression for dotted names like a pattern, and what `Match.expand` makes other names of.

    In both, `*` is one part of a name and `**` the rest of it; what they stand for is carried over.
    """
    parts = [r"(.+)" if part == "**" else r"([^.]+)" if part == "*" else re.escape(part) for part in pattern.split(".")]
    numbers = iter(range(1, 10))
    filled = [rf"\{next(numbers)}" if part in ("*", "**") else part for part in replacement.split(".")]
    return re.compile(r"\.".join(parts)), ".".join(filled)
