"""`detr predict`: from a source of images to pictures and files."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from detr.config import Config
from detr.data.converting.folder import distinct_names
from detr.environment import hardware, revision
from detr.errors import UserError
from detr.files import write_json, write_with
from detr.inference.detector import Detector
from detr.inference.found import Found
from detr.inference.sources import Stream, found_in, read_ahead
from detr.inference.video import opened
from detr.inference.writing import Format, Output
from detr.tracking.console import Bar, Console
from detr.tracking.record import RUN, RunRecord
from detr.weights.checkpoint import identity

log = logging.getLogger(__name__)

OPTIONS = ("threshold", "classes", "top_k", "batch_size", "tiles", "overlap")  # of the detector's call, as they are


def predict(config: Config) -> bool:
    """Find objects as the config says and write pictures and files; whether every image could be read comes back.

    Raises:
        UserError: a mistake in the command line, the source or the weights.
    """
    values = config.values
    folder = config.directory
    given = values["format"]
    formats: Sequence[Format] = given if isinstance(given, list) else [given]
    source = found_in(values["source"])
    if isinstance(source, Stream):
        check_stream(formats, values)
    detector = Detector.load(values["checkpoint"], device=values["device"], overrides=config.aside)
    options = options_of(values)
    detector([], **options)  # a mistake in them is told before anything is read
    names = None if isinstance(source, Stream) else distinct_names(map(str, source))
    output = Output(folder, formats, detector.classes, names)
    started, console = time.monotonic(), Console()
    if isinstance(source, Stream):
        failed = watch(source, detector, options, output, console)
    else:
        failed = look(source, detector, options, output, console)
    output.finish()
    seconds, count = time.monotonic() - started, len(output.images)
    what = "frames" if isinstance(source, Stream) else "images"
    log.info("%d objects in %d %s, %.1f a second", len(output.results), count, what, count / max(seconds, 1e-9))
    if failed:
        log.error("%d of %d images could not be read", failed, failed + count)
    record = RunRecord.of(
        config,
        git=revision(),
        hardware=hardware(),
        images=count,
        checkpoint=identity(values["checkpoint"], None),
    )
    write_json(folder / RUN, record.to_dict(), indent=2)
    console.places({"written to": folder})
    return not failed


def options_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return how the detector is called."""
    point = values["attention_point"]
    if point is not None and not values["attention"]:
        raise UserError("attention_point: is shown with attention only; add attention=true")
    if point is not None and len(point) != 2:
        raise UserError(f"attention_point: expected x,y in pixels, got {len(point)} numbers")
    more: dict[str, Any] = {}
    if values["attention"]:
        more = {"attention": "all" if values["attention"] == "all" else "last"}
        more |= {} if point is None else {"attention_point": tuple(point)}
    return {name: values[name] for name in OPTIONS} | more


def check_stream(formats: Sequence[Format], values: Mapping[str, Any]) -> None:
    """Raise UserError about what there is for images only."""
    for layout in ("yolo", "voc"):
        if layout in formats:
            raise UserError(f"format={layout}: is a data set of image files, which frames are not; use coco or csv")
    if values["attention"]:
        raise UserError("attention: is drawn for images; save a frame and give that")


def look(
    files: Sequence[Path], detector: Detector, options: Mapping[str, Any], output: Output, console: Console
) -> int:
    """Find objects in image files; how many could not be read comes back."""
    size = options["batch_size"] or detector.batch_size
    failed = 0
    with console.prediction(len(files)) as bar:
        waiting: list[tuple[Path, Image.Image]] = []
        for file, image in read_ahead(files):
            if isinstance(image, UserError):
                log.error("%s", image)
                failed += 1
                bar.advance()
                continue
            waiting.append((file, image))
            if len(waiting) == size:
                take(waiting, detector, options, output, bar)
                waiting = []
        take(waiting, detector, options, output, bar)
    return failed


def take(
    images: Sequence[tuple[Path, Image.Image]],
    detector: Detector,
    options: Mapping[str, Any],
    output: Output,
    bar: Bar,
) -> None:
    """Find objects in some images, and write a picture of each."""
    found: list[Found] = detector([image for _, image in images], **options)
    for (file, _), each in zip(images, found, strict=True):
        output.add(each, str(file))
        output.picture(each.draw(), str(file))
        if each.attention is not None:
            output.picture(each.draw_attention(), str(file), "attention")
    bar.advance(len(images))


def watch(source: Stream, detector: Detector, options: Mapping[str, Any], output: Output, console: Console) -> int:
    """Find objects in the frames of a video, and write an annotated one; no frame fails without the whole."""
    name = f"webcam{source.place}.mp4" if source.webcam else f"{Path(source.place).stem}.mp4"
    with opened(source) as video, console.prediction(video.frames) as bar:

        def change(image: Image.Image) -> Image.Image:
            found = detector(image, **options)
            output.add(found, source.place, frame=len(output.images))
            bar.advance()
            return found.draw()

        write_with(output.folder / name, lambda stream: video.rewritten(stream, change))
    return 0
