"""The monitor over HTTP, on this machine alone: a page, what has changed since, rows, pictures, comparisons.

Runs have numbers here and pictures the names that were found, so that no path is ever taken from a request.
"""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Callable
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from detr.errors import UserError, in_words
from detr.monitoring.monitor import Monitor
from detr.tracking.runs import CARD

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
PAGE = Path(__file__).with_name("page.html")
POLICY = (
    "default-src 'none'; connect-src 'self'; img-src 'self' data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
ERROR = """<!DOCTYPE html><html lang="en"><meta charset="utf-8"><meta name="color-scheme" content="light dark">
<title>detr monitor</title><body style="font: 16px/1.5 system-ui, sans-serif; margin: 3em"><p>{}</p>
"""


class Server(ThreadingHTTPServer):
    """Serves a monitor.

    Args:
        monitor: what is served.
        port: 0: any that is free; `server_port` says which.

    Raises:
        UserError: the port cannot be used.
    """

    daemon_threads = True

    def __init__(self, monitor: Monitor, port: int) -> None:
        self.monitor = monitor
        self.comparing = threading.Lock()  # reading a data set changes the working folder for a while
        try:
            super().__init__((HOST, port), Handler)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            why = "in use" if error.errno == errno.EADDRINUSE else "not for you to use"
            raise UserError(
                f"port {port} of {HOST} is {why}; choose another one with port=N, or port=0 for any that is free"
            ) from error

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of pages that were closed meanwhile."""


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version = "detr"
    sys_version = ""
    timeout = 60  # seconds without a request, after which a connection is closed

    def do_GET(self) -> None:
        host = self.headers.get("Host", "")
        if host.rpartition(":")[0 if ":" in host else 2] not in NAMES:  # a name of somebody else's that leads here
            self.answer(403, "text/plain", b"this is for 127.0.0.1 and localhost alone\n")
            return
        url = urlsplit(self.path)
        routes: dict[str, Callable[[dict[str, list[str]]], None]] = {
            "/": self.page,
            "/changes": self.changes,
            "/rows": self.rows,
            "/picture": self.picture,
            "/card": self.card,
            "/compare": self.compare,
        }
        route = routes.get(url.path)
        try:
            if route is None:
                self.missing()
            else:
                route(parse_qs(url.query))
        except ValueError:  # no number
            self.answer(400, "text/plain", b"not a number\n")

    def do_HEAD(self) -> None:
        self.do_GET()

    def page(self, query: dict[str, list[str]]) -> None:
        self.answer(200, "text/html", PAGE.read_bytes(), policy=POLICY)

    def changes(self, query: dict[str, list[str]]) -> None:
        self.json(self.server.monitor.changes(_text(query, "session"), _number(query, "since")))

    def rows(self, query: dict[str, list[str]]) -> None:
        found = self.server.monitor.rows(*(_number(query, name) for name in ("run", "series", "start")))
        self.missing() if found is None else self.json(found)

    def picture(self, query: dict[str, list[str]]) -> None:
        self.file(self.server.monitor.picture(_number(query, "run"), _text(query, "name")), "image/jpeg")

    def card(self, query: dict[str, list[str]]) -> None:
        folder = self.server.monitor.folder_of(_number(query, "run"))
        self.file(folder and folder / CARD, "text/plain")

    def compare(self, query: dict[str, list[str]]) -> None:
        """The page of `detr compare --html`, of the runs that were chosen."""
        found = [self.server.monitor.folder_of(int(number)) for number in query.get("run", [])]
        folders = [str(folder) for folder in found if folder is not None]
        # Here: torch takes seconds, which the other pages need not wait for.
        from detr.comparison.comparison import compare
        from detr.comparison.finding import find_runs
        from detr.comparison.page import page

        try:
            with self.server.comparing:
                runs, skipped = find_runs(folders)
                content = page(compare(runs, metric=_text(query, "metric") or "AP", last=False, skipped=skipped))
        except UserError as error:
            self.answer(400, "text/html", ERROR.format(escape(in_words(error))).encode(), policy=POLICY)
            return
        self.answer(200, "text/html", content.encode(errors="backslashreplace"))

    def json(self, content: Any) -> None:
        self.answer(200, "application/json", json.dumps(content, allow_nan=False).encode())

    def file(self, path: Path | None, kind: str) -> None:
        try:
            content = None if path is None else path.read_bytes()
        except OSError:  # gone meanwhile
            content = None
        self.missing() if content is None else self.answer(200, kind, content)

    def missing(self) -> None:
        self.answer(404, "text/plain", b"there is no such thing\n")

    def answer(self, status: int, kind: str, content: bytes, *, policy: str | None = None) -> None:
        """Send an answer that nobody keeps, and no other page may show."""
        self.send_response(status)
        self.send_header("Content-Type", kind if kind.startswith("image/") else f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        if policy is not None:
            self.send_header("Content-Security-Policy", policy)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing of requests."""


def _number(query: dict[str, list[str]], name: str) -> int:
    return int(query.get(name, ["0"])[0])


def _text(query: dict[str, list[str]], name: str) -> str:
    return query.get(name, [""])[0]
