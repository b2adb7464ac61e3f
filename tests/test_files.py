"""All or nothing, whatever goes wrong."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import BinaryIO

import pytest

from detr.errors import UserError
from detr.files import append_json_line, write_atomically, write_json, write_json_list, write_with


def only_file(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


def test_bytes_text_and_json_read_back(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    write_atomically(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    write_atomically(path, "Zürich\n")
    assert path.read_text(encoding="utf-8") == "Zürich\n"
    write_json(path, {"AP": 0.1, "classes": ["é"]}, indent=2)
    assert json.loads(path.read_text()) == {"AP": 0.1, "classes": ["é"]}
    assert only_file(path.parent) == path


def test_lists_are_written_item_by_item(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    for items in ([], [1], [{"a": 0.1}, "é", None]):
        write_json_list(path, iter(items))
        assert json.loads(path.read_text()) == items
    with pytest.raises(ValueError, match="Out of range"):
        write_json_list(path, iter([1.0, float("nan")]))
    assert json.loads(path.read_text()) == [{"a": 0.1}, "é", None], "the old one is left as it was"
    assert only_file(tmp_path) == path


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("crash")])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: Exception) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(b"old")

    def fail_half_way(stream: BinaryIO) -> None:
        stream.write(b"ne")
        raise error

    with pytest.raises(UserError if isinstance(error, OSError) else RuntimeError) as caught:
        write_with(path, fail_half_way)
    assert path.read_bytes() == b"old"
    assert only_file(tmp_path) == path
    if isinstance(error, OSError):
        assert "No space left" in str(caught.value)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_full_disk_for_real() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    with pytest.raises(UserError, match="No space left on device"):
        append_json_line("/dev/full", {"epoch": 1})


def test_a_file_where_a_folder_should_be_is_a_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("")
    for write in (write_json, append_json_line):
        with pytest.raises(UserError, match=r"cannot write .*outputs"):
            write(tmp_path / "outputs" / "metrics.jsonl", {})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_a_users_mistake(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(UserError, match="Permission denied"):
            write_json(tmp_path / "metrics.json", {})
    finally:
        tmp_path.chmod(0o700)


def test_permissions_are_those_of_an_ordinary_file_or_of_the_one_replaced(tmp_path: Path) -> None:
    ordinary, ours = tmp_path / "ordinary", tmp_path / "ours"
    ordinary.touch()
    write_atomically(ours, b"")
    assert stat.S_IMODE(ours.stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)
    ours.chmod(0o640)
    write_atomically(ours, b"again")
    assert stat.S_IMODE(ours.stat().st_mode) == 0o640


def test_not_a_number_is_not_written(tmp_path: Path) -> None:
    for write in (write_json, append_json_line):
        with pytest.raises(ValueError, match="JSON"):
            write(tmp_path / "metrics", {"train/loss": float("nan")})
    assert not list(tmp_path.iterdir())


def test_rows_are_appended(tmp_path: Path) -> None:
    rows = [{"epoch": epoch, "val/AP": epoch / 10} for epoch in range(3)]
    for row in rows:
        append_json_line(tmp_path / "metrics.jsonl", row)
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == rows
