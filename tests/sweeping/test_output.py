"""Lines of jobs that run beside each other say which job they are of."""

from __future__ import annotations

import io
import logging
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detr.sweeping.output import Labelled, labelled


@given(st.lists(st.text("ab\n", max_size=8)))
def test_every_line_has_its_label(pieces: list[str]) -> None:
    """However it is written in pieces."""
    stream = io.StringIO()
    out = Labelled(stream, "#3 loss=focal")
    for piece in pieces:
        assert out.write(piece) == len(piece)
    out.end()
    whole = "".join(pieces)
    expected = whole.removesuffix("\n").split("\n") if whole else []
    assert stream.getvalue() == "".join(f"#3 loss=focal  {line}\n" for line in expected)


def test_what_is_printed_and_what_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    handler, root = logging.StreamHandler(sys.stdout), logging.getLogger()
    root.addHandler(handler)
    try:
        with labelled("#1 seed=2"):
            print("one")
            print("two", file=sys.stderr)
            logging.getLogger("x").warning("three")
            assert not sys.stdout.isatty()
        logging.getLogger("x").warning("after")
    finally:
        root.removeHandler(handler)
    printed = capsys.readouterr()
    assert printed.out == "#1 seed=2  one\n#1 seed=2  three\nafter\n"
    assert printed.err.startswith("#1 seed=2  two\n")


def test_without_a_label_nothing_changes(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout
    with labelled(None):
        assert sys.stdout is before
