"""What the monitor answers: only what has changed, only to this machine, and no file but those of the runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from command import ROOT, only_error, run
from PIL import Image
from run_folders import write_data, write_run

from detr.commands.monitor import parse
from detr.errors import UserError
from detr.files import append_json_line, is_held, write_atomically
from detr.monitoring import monitor as monitoring
from detr.monitoring.monitor import Monitor
from detr.monitoring.server import Server
from detr.tracking.status import update_status

STEPS = {"steps": 100, "choices": {"experiment": "quickstart"}, "overrides": ["seed=0"]}

HOLDING = """
import pathlib, sys
import detr.monitoring.server
assert "torch" not in sys.modules  # which takes seconds
from detr.files import locked
with locked(pathlib.Path(sys.argv[1]), "training"):
    print("held", flush=True)
    input()
"""


class Client:
    """A page: it remembers what it has seen."""

    def __init__(self, server: Server) -> None:
        self.server, self.session, self.since = server, "", 0

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        request = urllib.request.Request(self.server.address + path.lstrip("/"), headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def json(self, path: str) -> Any:
        status, content = self.get(path)
        assert status == 200, content
        return json.loads(content)

    def changes(self) -> dict[str, dict[str, Any]]:
        answer = self.json(f"/changes?session={self.session}&since={self.since}")
        self.session, self.since = answer["session"], answer["version"]
        return {each["place"]: each for each in answer["runs"]} | {"gone": answer["gone"]}


@contextmanager
def served(folder: Path) -> Iterator[Client]:
    with Server(Monitor(folder), 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield Client(server)
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitoring, "FRESH", 0.0)


def test_a_page_hears_of_changes_once(tmp_path: Path) -> None:
    write_run(tmp_path / "a", [0.1, 0.3, 0.2], facts=STEPS)
    with served(tmp_path) as page:
        first = page.changes()["a"]
        assert (first["best"], first["best_epoch"], first["epoch"], first["step"], first["steps"]) == (
            0.3,
            2,
            3,
            30,
            100,
        )
        assert (first["state"], first["given"], first["seconds"]) == ("interrupted", "seed=0", 90.0)
        assert page.changes() == {"gone": []}
        append_json_line(tmp_path / "a/metrics.jsonl", {"epoch": 4, "step": 40, "val/AP": 0.4, "train/loss": 1.0})
        second = write_run(tmp_path / "sweep/deeper/b", [0.5], facts=STEPS)
        update_status(second, status="failed", error="out of luck")
        changed = page.changes()
        assert changed.keys() == {"a", "sweep/deeper/b", "gone"}
        assert (changed["a"]["best"], changed["a"]["epoch"]) == (0.4, 4)
        assert (changed["sweep/deeper/b"]["state"], changed["sweep/deeper/b"]["said"]) == ("failed", "out of luck")
        shutil.rmtree(second)
        assert page.changes() == {"gone": [changed["sweep/deeper/b"]["run"]]}
        page.session = "earlier"
        assert page.changes().keys() == {"a", "gone"}


def test_rows_come_once_and_anew_where_they_were_rewritten(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", [0.1, 0.2], metrics={"AP/cat": 0.7})
    file = run / "metrics.jsonl"
    with served(tmp_path) as page:
        number = page.changes()["a"]["run"]
        answer = page.json(f"/rows?run={number}&series=-1&start=0")
        assert [row["val/AP"] for row in answer["rows"]] == [0.1, 0.2]
        assert not any("/AP/" in key for row in answer["rows"] for key in row)
        series = answer["series"]
        with file.open("a") as stream:
            stream.write('{"epoch": 3, "step": 30, "val/AP": 0.3}\n{"epoch": 4, "st')  # being written
        page.changes()
        answer = page.json(f"/rows?run={number}&series={series}&start=2")
        assert ([row["epoch"] for row in answer["rows"]], answer["series"], answer["start"]) == ([3], series, 2)
        with file.open("a") as stream:
            stream.write('ep": 40, "val/AP": null}\nno row\n')
        page.changes()
        assert [row["step"] for row in page.json(f"/rows?run={number}&series={series}&start=3")["rows"]] == [40]
        write_atomically(file, file.read_text().splitlines()[0] + "\n")  # as a run that is resumed does
        assert page.changes()["a"]["epoch"] == 1
        answer = page.json(f"/rows?run={number}&series={series}&start=4")
        assert ([row["epoch"] for row in answer["rows"]], answer["start"]) == ([1], 0)
        assert answer["series"] != series
        assert page.get("/rows?run=99")[0] == 404


def test_a_run_is_running_while_a_process_holds_it(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", [0.1], facts=STEPS)
    update_status(folder, status="running")
    os.utime(folder / "status.json", (1, 1))
    with served(tmp_path) as page:
        assert page.changes()["a"]["state"] == "interrupted"
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDING, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        assert is_held(folder)
        row = page.changes()["a"]
        assert row["state"] == "running"
        assert row["left"] == pytest.approx(90 * 30 / 10)  # steps at 3 s each
        process.communicate("\n")
        assert not is_held(folder)
        row = page.changes()["a"]
        assert (row["state"], row["left"]) == ("interrupted", None)


def test_only_pictures_of_runs_are_served_and_only_to_this_machine(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "runs/a", [0.1])
    (folder / "predictions").mkdir()
    Image.new("RGB", (4, 4)).save(folder / "predictions/000.jpg")
    (tmp_path / "secret.jpg").write_text("secret")
    (folder / "secret.jpg").write_text("secret")
    with served(tmp_path / "runs") as page:
        found = page.changes()["a"]
        name = found["pictures"][0].partition("?at=")[0]
        assert page.get(f"/picture?run={found['run']}&name={name}") == (
            200,
            (folder / "predictions/000.jpg").read_bytes(),
        )
        for path in (
            "/picture?run=0&name=../secret.jpg",
            "/picture?run=0&name=..%2Fsecret.jpg",
            f"/picture?run=0&name={folder}/secret.jpg",
            "/picture?run=7&name=000.jpg",
            "/../secret.jpg",
            "/runs/a/metrics.jsonl",
            "/card?run=0",
        ):
            assert page.get(path)[0] == 404, path
        assert page.get("/rows?run=../a")[0] == 400
        assert page.server.server_address[0] == "127.0.0.1"
        port = page.server.server_port
        for host in ("evil.com", f"evil.com:{port}", "127.0.0.1.evil.com", "", "localhost.evil.com:80"):
            assert page.get("/changes?since=0", Host=host)[0] == 403, host
        for host in (f"localhost:{port}", "localhost", f"127.0.0.1:{port}"):
            assert page.get("/", Host=host)[0] == 200


def test_the_page_asks_nobody_else(tmp_path: Path) -> None:
    with served(tmp_path) as page:
        status, content = page.get("/")
        answer = urllib.request.urlopen(page.server.address)
        assert "default-src 'none'; connect-src 'self'" in answer.headers["Content-Security-Policy"]
        answer.close()
        assert page.changes() == {"gone": []}
    text = content.decode()
    assert status == 200
    assert "://" not in text.replace("http://www.w3.org/2000/svg", "")  # the name of a kind of element
    assert "innerHTML" not in text


def test_the_ticked_runs_are_compared(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    for name, ap in (("a", 0.1), ("b", 0.2)):
        write_run(tmp_path / "runs" / name, [ap], data=data, config={"optimizer": {"lr": ap, "name": "<b>x"}})
    with served(tmp_path / "runs") as page:
        numbers = [each["run"] for each in page.changes().values() if isinstance(each, dict)]
        status, content = page.get(f"/compare?{'&'.join(f'run={number}' for number in numbers)}")
        assert status == 200
        assert b"2 settings compared in AP" in content
        status, content = page.get(f"/compare?run={numbers[0]}&metric=<b>AB")
        assert (status, b"&lt;b&gt;AB: no run has it" in content) == (400, True)
        assert page.get("/compare")[0] == 400


def test_hundreds_of_runs_stay_fast(tmp_path: Path) -> None:
    first = write_run(tmp_path / "0", [0.1] * 50, facts=STEPS)
    for index in range(1, 300):
        shutil.copytree(first, tmp_path / str(index))
    watched = Monitor(tmp_path)
    assert len(watched.changes("", 0)["runs"]) == 300
    append_json_line(tmp_path / "7/metrics.jsonl", {"epoch": 51, "step": 510})
    started = time.monotonic()
    assert [each["place"] for each in watched.changes(watched.session, 1)["runs"]] == ["7"]
    assert time.monotonic() - started < 1.0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["file"], "file: a file"),
        ([".", "prot=1"], "did you mean port?"),
        ([".", "--port=1"], "did you mean port?"),
        ([".", "port=x"], "port=x: expected a number from 0 to 65535"),
        ([".", "port=65536"], "expected a number from 0 to 65535"),
        ([".", "open=maybe"], "open=maybe: expected true or false"),
        ([".", "lr=1"], "one folder is watched at a time"),
    ],
)
def test_a_mistake_is_answered_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "lr=1").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said.replace("?", r"\?")):
        parse(words)
    assert parse(["lr=1", "port=0", "open=true"]) == (Path("lr=1"), 0, True)


def test_the_command_starts_empty_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "detr", "monitor", tmp_path, "port=0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert "none yet: it waits for them" in process.stdout.readline()
    line = process.stdout.readline()
    port = line.partition("127.0.0.1:")[2].partition("/")[0]
    taken = only_error(run("-m", "detr", "monitor", str(tmp_path), f"port={port}"))
    assert f"port {port} of 127.0.0.1 is in use; choose another one with port=N" in taken
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out.strip(), err) == (0, "stopped", "")
