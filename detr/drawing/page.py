"""What all HTML pages have in common: one style, and nothing outside of their own file."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from string import Template

from PIL import Image

STYLE = Path(__file__).with_name("page.css")


def fill(template: Path, **parts: str) -> str:
    """Return a page: a template whose `$style` is the common one, and whose other `$names` are given as HTML."""
    style = STYLE.read_text(encoding="utf-8")
    return Template(template.read_text(encoding="utf-8")).substitute(style=style, **parts)


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
