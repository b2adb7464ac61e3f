"""What `source=` names: image files, a video, a webcam."""

from __future__ import annotations

import glob
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from detr.data.image_files import SUFFIXES, images_in
from detr.errors import UserError
from detr.inference.inputs import as_image

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts")
STDIN = "-"
AHEAD = 2  # files that are read while the detector is busy


@dataclass(frozen=True)
class Stream:
    """Holds a video file, or a webcam by its number."""

    place: str
    webcam: bool = False


def found_in(source: str) -> list[Path] | Stream:
    """Return the image files of a source, in the order of their names, or the video that it is.

    Args:
        source: an image, a folder (with those inside of it), a pattern with `*` or `**`, `-` for a list of files on
            stdin, a video, or the number of a webcam.

    Raises:
        UserError: there is no such thing, or no image in it.
    """
    if source.isdecimal():
        return Stream(source, webcam=True)
    if source == STDIN:
        files = [Path(line.strip()) for line in sys.stdin if line.strip()]
        return _some(files, "source=-: stdin lists no file; give one a line")
    path = Path(source)
    if path.is_dir():
        return _some(images_in(path), f"{source}: no image in this folder{_videos(path)}")
    if path.exists():
        return Stream(source) if path.suffix.lower() in VIDEOS else [path]
    if glob.has_magic(source):
        files = sorted(Path(each) for each in glob.glob(source, recursive=True) if each.lower().endswith(SUFFIXES))
        return _some(files, f"{source}: no image file is called so; images end in {', '.join(SUFFIXES)}")
    raise UserError(f"{source}: no such image, folder or video")


def _some(files: list[Path], otherwise: str) -> list[Path]:
    """Each file once. Raises UserError where there is none."""
    if not files:
        raise UserError(otherwise)
    return list(dict.fromkeys(files))


def _videos(folder: Path) -> str:
    count = sum(path.suffix.lower() in VIDEOS for path in folder.iterdir())
    return f", but {count} videos; give them one by one" if count else f"; images end in {', '.join(SUFFIXES)}"


def read_ahead(files: Sequence[Path]) -> Iterator[tuple[Path, Image.Image | UserError]]:
    """Yield each file with its image, or with what is wrong with it; the next ones are read meanwhile."""
    with ThreadPoolExecutor(AHEAD) as pool:
        waiting: deque[tuple[Path, Future[Image.Image | UserError]]] = deque()
        for file in files:
            waiting.append((file, pool.submit(_read, file)))
            if len(waiting) > AHEAD:
                path, image = waiting.popleft()
                yield path, image.result()
        for path, image in waiting:
            yield path, image.result()


def _read(file: Path) -> Image.Image | UserError:
    try:
        return as_image(file)
    except UserError as error:
        return error
