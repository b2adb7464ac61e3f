"""Watch the runs below a folder on a local page that is alive while they train: curves, pictures, states, comparison.

detr monitor                             # of all runs below outputs; the page is at http://127.0.0.1:8870/
detr monitor outputs/sweep/DATE          # of one sweep
detr monitor outputs port=9000 open=true # at another port, and shown in the browser

It listens on this machine alone, and the page asks nobody else for anything. Ctrl-C ends it; the runs go on.
"""

from __future__ import annotations

import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from detr.config.suggest import did_you_mean
from detr.entry import user_errors
from detr.errors import UserError
from detr.texts import visible

FOLDER = "outputs"
PORT = 8870
KEYS = ("port", "open")


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve the page until Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & {*given}:
        print((__doc__ or "").rstrip())
        return
    with user_errors():
        serve(*parse(given))


def parse(words: Sequence[str]) -> tuple[Path, int, bool]:
    """Return folder, port and whether to open a browser. Raises UserError about what cannot be understood."""
    folders, port, browser = [], PORT, False
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in KEYS:
            if key == "port":
                port = _port(value)
            else:
                browser = _flag(value)
        elif (equals and not Path(word).exists()) or word.startswith("-"):
            hint = did_you_mean(key.lstrip("-"), KEYS) or f"; there are {' and '.join(KEYS)}"
            raise UserError(f"{word}: there is no such key{hint}")
        else:
            folders.append(word)
    if len(folders) > 1:
        raise UserError(f"{folders[1]}: one folder is watched at a time, with all runs below it; give the one above")
    folder = Path(folders[0] if folders else FOLDER).expanduser()
    if not folder.is_dir():
        why = "a file" if folder.exists() else "no such folder"
        raise UserError(f"{folder}: {why}; give the folder that runs are in, such as {FOLDER}")
    return folder, port, browser


def serve(folder: Path, port: int, browser: bool) -> None:
    """Serve the page of the runs below a folder."""
    from detr.monitoring.monitor import Monitor
    from detr.monitoring.server import Server

    monitor = Monitor(folder)
    with Server(monitor, port) as server:
        states = monitor.states()
        found = ", ".join(f"{number} {state}" for state, number in states.items()) or "none yet: it waits for them"
        print(f"runs     {visible(folder)}: {found}")
        print(f"page     {server.address}   (Ctrl-C ends it)", flush=True)
        if browser:
            webbrowser.open(server.address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopped")


def _port(value: str) -> int:
    if not value.isascii() or not value.isdecimal() or int(value) > 65535:
        raise UserError(f"port={value}: expected a number from 0 to 65535; 0 is any that is free")
    return int(value)


def _flag(value: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise UserError(f"open={value}: expected true or false")
    return value.lower() == "true"
