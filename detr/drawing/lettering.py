"""Words on pictures: every name in a font that has its characters."""

from __future__ import annotations

import functools

from PIL import ImageFont

from detr.texts import visible

# Looked for where systems keep fonts; the one that comes with Pillow has little more than ASCII.
SYSTEM_FONTS = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "arial.ttf", "Arial Unicode.ttf"),
    *("NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "msyh.ttc", "PingFang.ttc", "malgun.ttf"),
)
MISSING = "\uffff"  # no character: how a font draws what it does not have


def lettered(text: str, size: int) -> tuple[str, ImageFont.FreeTypeFont]:
    """Return a text in one line as it can be drawn, and a font of this size for it.

    Pillow's own font where it has all characters, else one of the system's; what none has is written as an escape
    (`\\u732b`), so that names stay apart.
    """
    line = visible(text)
    for name in (None, *SYSTEM_FONTS):
        font = _font(name, size)
        if font is not None and all(_has(name, character) for character in line):
            return line, font
    written = [each if _has(None, each) else each.encode("ascii", "backslashreplace").decode() for each in line]
    font = _font(None, size)
    assert font is not None
    return "".join(written), font


def label_size(unit: int) -> int:
    """Return the size of names on a picture whose longer side is `unit` pixels."""
    return max(11, unit // 42)


@functools.lru_cache(maxsize=64)
def _font(name: str | None, size: int) -> ImageFont.FreeTypeFont | None:
    try:
        font = ImageFont.load_default(size=size) if name is None else ImageFont.truetype(name, size)
    except OSError:  # not on this system
        return None
    assert isinstance(font, ImageFont.FreeTypeFont)  # it is one whenever a size is asked for
    return font


@functools.lru_cache(maxsize=4096)
def _has(name: str | None, character: str) -> bool:
    font = _font(name, 20)
    return font is not None and (character == " " or bytes(font.getmask(character)) != bytes(font.getmask(MISSING)))
