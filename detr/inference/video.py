"""Videos and webcams, by PyAV: frames in, annotated frames out at the same times."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from types import ModuleType
from typing import Any, BinaryIO

from PIL import Image

from detr.errors import UserError, in_words
from detr.inference.sources import Stream

CODEC = "libx264"
QUALITY = {"crf": "20"}  # of the codec: hardly a visible loss
RATE = Fraction(25)  # frames a second, of a video that does not tell
WEBCAMS = {"Linux": ("v4l2", "/dev/video{}"), "Darwin": ("avfoundation", "{}")}  # system → PyAV's format and place


class Video:
    """Reads frames, and writes others in their place; build it with `opened`."""

    def __init__(self, container: Any, stream: Stream) -> None:
        self.container, self.place = container, stream.place
        self.video = container.streams.video[0]
        self.video.thread_type = "AUTO"
        self.rate: Fraction = self.video.average_rate or self.video.guessed_rate or RATE
        self.frames: int | None = self.video.frames or None  # None: unknown, or without an end

    def rewritten(self, target: BinaryIO, change: Callable[[Image.Image], Image.Image]) -> None:
        """Write an MP4 of all frames after `change`, which must keep them of one size, each at its own time.

        Ctrl-C ends it in good order. Sound is left out.

        Raises:
            UserError: a codec is missing, or the video is broken.
        """
        av = pyav()
        with _told(self.place), av.open(target, "w", format="mp4") as output:
            written = None
            for frame, image in self._images():
                picture = _even(change(image))
                if written is None:
                    written = output.add_stream(CODEC, rate=self.rate, options=QUALITY)
                    written.width, written.height, written.pix_fmt = *picture.size, "yuv420p"
                    written.codec_context.time_base = frame.time_base or 1 / self.rate
                new = av.VideoFrame.from_image(picture.resize((written.width, written.height)))
                new.pts, new.time_base = frame.pts, frame.time_base
                output.mux(written.encode(new))
            if written is not None:
                output.mux(written.encode())

    def _images(self) -> Iterator[tuple[Any, Image.Image]]:
        """Frames, upright, until the end or Ctrl-C."""
        try:
            for frame in self.container.decode(self.video):
                turn = getattr(frame, "rotation", 0) or 0  # degrees counterclockwise, as phones note them
                image = frame.to_image()
                yield frame, (image.rotate(turn, expand=True) if turn else image)
        except KeyboardInterrupt:
            return


@contextmanager
def opened(stream: Stream) -> Iterator[Video]:
    """Open a video or webcam.

    Raises:
        UserError: PyAV is not installed, there is no such webcam, or the file is no video.
    """
    av = pyav()
    place, layout = stream.place, None
    if stream.webcam:
        if platform.system() not in WEBCAMS:
            raise UserError(f"source={place}: webcams are not known on {platform.system()}; record a video first")
        layout, pattern = WEBCAMS[platform.system()]
        place = pattern.format(place)
    with _told(place):
        container = av.open(place, format=layout)
    with container:
        if not container.streams.video:
            raise UserError(f"{place}: there is no video in this file")
        yield Video(container, stream)


def pyav() -> ModuleType:
    """Return the module `av`. Raises UserError where it is not installed."""
    try:
        import av
    except ImportError:
        raise UserError("PyAV, which reads videos, is not installed; pip install 'detr-lab[video]'") from None
    return av


@contextmanager
def _told(place: str) -> Iterator[None]:
    """Tell errors of FFmpeg, missing codecs among them, in one line."""
    av = pyav()
    try:
        yield
    except (av.FFmpegError, av.codec.codec.UnknownCodecError) as error:
        raise UserError(f"{place}: the video cannot be read or written ({in_words(error)})") from error


def _even(picture: Image.Image) -> Image.Image:
    """With sides that are multiples of two, as the codec wants them."""
    width, height = (side + side % 2 for side in picture.size)
    return picture if picture.size == (width, height) else picture.resize((width, height))
