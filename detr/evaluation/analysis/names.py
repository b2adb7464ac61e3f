"""How files and kinds of errors of an analysis are called; nothing heavy is imported here."""

from typing import Literal

Iou = Literal["boxes", "masks"]  # what overlaps are of

PAGE, NUMBERS = "analysis.html", "analysis.json"  # in the folder of the predictions

CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED = KINDS = (
    "classification",
    "localisation",
    "both",
    "duplicate",
    "background",
    "missed",
)
