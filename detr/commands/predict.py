"""Find objects in images or a video with a checkpoint: pictures, and files in the formats of others.

detr predict checkpoint=outputs/train/DATE/checkpoints/best.pt source=photos          # a folder, an image, 'a/*.jpg'
detr predict checkpoint=PATH source=street.mp4 threshold=0.6                          # a video, or webcam 0
detr predict checkpoint=PATH source=photos format=coco,yolo classes=RBC,WBC top_k=20
detr predict checkpoint=PATH source=photos tiles=640 overlap=0.2                       # small objects in large images
detr predict checkpoint=PATH source=cell.jpg attention=true attention_point=120,80     # where the detector looks
find photos -name '*.jpg' | detr predict checkpoint=PATH source=-                      # a list of files

Arguments are KEY=VALUE:

  checkpoint=PATH          a checkpoint, an https address, the name of published weights (detr_r50, …) or a folder
  source=WHAT              image, folder, pattern, - (a list on stdin), video, number of a webcam
  output=FOLDER            where pictures and files go; outputs/predict/DATE by default
  format=coco              coco | csv | yolo | voc, or several
  threshold=0.5            least score
  classes=NAME,NAME        only these
  top_k=N                  of an image, the best N
  batch_size=N             images at once; as in evaluations by default
  device=auto              auto | cpu | cuda | cuda:N | mps
  tiles=PIXELS             look at larger images in tiles of this side, too; overlap=0.2 of it
  attention=true           where the query of each detection looked, in the last layer; all: in every layer
  attention_point=X,Y      with attention: where the encoder looks from this point, in pixels
  any key of the training  experiment=NAME for a file that does not say what it is, augmentation.max_size=…, …

Exit status 0; 1 where an image could not be read: it is named, and the others are done.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from detr.config import Config
from detr.entry import entry_point, user_errors
from detr.errors import UserError

FAILED = 1  # exit status
PLACES = ("source", "output")  # may hold whatever a file may be called
LISTS = ("format", "classes", "attention_point")  # may be written a,b


def main(arguments: Sequence[str] | None = None) -> None:
    """Predict what the command line says; the exit status says whether every image could be read."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    multirun = {"-m", "--multirun"} & {*given}
    with user_errors():
        _check_output(given)

    @entry_point("predict", deferred=True)
    def predict(config: Config) -> None:
        from detr.inference.predict import predict  # torch takes seconds, which --help and a typo need not wait for

        if not predict(config):
            sys.exit(FAILED)

    predict(given if multirun else [_quoted(word) for word in given])


def _check_output(given: Sequence[str]) -> None:
    """Raise UserError about a folder with something in it, before Hydra opens a log there."""
    for key, _, value in (word.partition("=") for word in given):
        folder = Path(value.strip("\"'"))
        if (
            key in ("output", "hydra.run.dir")
            and value
            and folder.exists()
            and (not folder.is_dir() or any(folder.iterdir()))
        ):
            raise UserError(f"{folder}: not empty; choose another output, or remove it")


def _quoted(word: str) -> str:
    """An override as Hydra reads it: places in quotes, lists in brackets."""
    key, equals, value = word.partition("=")
    if key in PLACES and equals and not re.fullmatch(r"""\s*(["'\[].*|null|\?\?\?)?""", value):
        escaped = value.replace('"', '\\"').replace("${", "\\${")
        return f'{key}="{escaped}"'
    if key in LISTS and re.fullmatch(r"[^\[\]\"']+,[^\[\]\"']*", value):
        return f"{key}=[{value}]"
    return word
