"""What all HTML pages have in common: one style, and nothing outside of their own file."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from string import Template

from PIL import Image

HEAD, STYLE = (Path(__file__).with_name(name) for name in ("head.html", "page.css"))


def fill(template: Path, *, title: str, scripts: bool = False, **parts: str) -> str:
    """Return a page.

    Args:
        template: whose `$head` is the common one, up to its style, and whose other `$names` are given.
        title: of the page, as HTML.
        scripts: whether the page has any; else none would be run.
        parts: as HTML.
    """
    policy = "; script-src 'unsafe-inline'" if scripts else ""
    head = _filled(HEAD, title=title, style=STYLE.read_text(encoding="utf-8"), policy=policy).rstrip()
    return _filled(template, head=head, title=title, **parts)


def _filled(template: Path, **parts: str) -> str:
    return Template(template.read_text(encoding="utf-8")).substitute(parts)


def section(title: str, content: str) -> str:
    """Return a part of a page under a heading, both HTML; nothing where there is no content."""
    return f"<section><h2>{title}</h2>{content}</section>" if content else ""


def encoded(picture: Image.Image, kind: str = "JPEG", quality: int = 80) -> bytes:
    """Return a picture as the bytes of a file; `quality` is JPEG's."""
    stream = io.BytesIO()
    picture.save(stream, kind, **({} if kind == "PNG" else {"quality": quality}))
    return stream.getvalue()


def uri(content: bytes, kind: str = "JPEG") -> str:
    """Return the bytes of a picture's file as an address that holds all of them."""
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content).decode()}"
