"""What W&B shows beside numbers: images with boxes and masks, tables, charts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from detr.evaluation.examples import KEPT_SCORE, Boxes, Example, Segments
from detr.evaluation.metrics import Evaluation
from detr.evaluation.mistakes import Mistakes, best_score, find_mistakes, worst_examples
from detr.evaluation.names import UNDEFINED
from detr.evaluation.validation import Outcome

CHART_ROWS = 10_000  # W&B draws no more of a table


def tables_of(outcome: Outcome, evaluation: Evaluation, images: int) -> dict[str, Any]:
    """Return key → what is shown of an evaluation: AP by class, curves, confusion of classes, the worst images.

    Args:
        outcome: whose boxes are looked at.
        evaluation: of it.
        images: at most so many of the worst.
    """
    truth = outcome.dataset.ground_truth()
    mistakes = find_mistakes(outcome.results, truth, best_score(evaluation))
    seen = outcome.results.boxes.keys()
    objects = Counter(each["category_id"] for each in truth["annotations"] if each["image_id"] in seen)
    shown = {
        "tables/classes": class_table(evaluation, objects),
        "tables/precision_recall": precision_recall(evaluation),
        "tables/confusion": confusion_matrix(mistakes),
    }
    worst = worst_examples(mistakes, outcome.results, outcome.dataset, images)
    return shown | ({"images/worst": [boxed_image(example) for example in worst]} if worst else {})


def class_table(evaluation: Evaluation, objects: Mapping[int, int]) -> Any:
    """Return a table with a row for each class; an empty cell where there is nothing to measure.

    Args:
        evaluation: the numbers.
        objects: category id → how many objects there are.
    """
    import wandb

    precision = np.ma.masked_equal(evaluation.precision[..., 0, -1], UNDEFINED)  # [T, R, K]
    recall = np.ma.masked_equal(evaluation.recall[..., 0, -1], UNDEFINED)  # [T, K]
    at = {f"AP{100 * iou:.0f}": np.isclose(evaluation.iou_thresholds, iou) for iou in (0.5, 0.75)}
    columns = {
        "class": list(evaluation.per_class),
        "AP": evaluation.per_class.values(),
        **{name: precision[chosen].mean(axis=(0, 1)).filled(UNDEFINED) for name, chosen in at.items()},
        "AR": recall.mean(axis=0).filled(UNDEFINED),
        **({} if evaluation.segm is None else {"mask AP": evaluation.segm.per_class.values()}),
        "objects": [objects.get(category, 0) for category in evaluation.category_ids],
    }
    if evaluation.panoptic is not None:
        columns["PQ"] = [evaluation.panoptic.per_class.get(name, UNDEFINED) for name in evaluation.per_class]
    return wandb.Table(columns=list(columns), data=[_cells(row) for row in zip(*columns.values(), strict=True)])


def precision_recall(evaluation: Evaluation) -> Any:
    """Return curves at IoU 0.5: their mean and one for each class, as many as W&B draws."""
    import wandb

    precision = evaluation.precision[0, :, :, 0, -1]  # [R, K]
    curves = {
        name: curve.tolist()
        for name, curve in zip(evaluation.per_class, precision.T, strict=True)
        if curve[0] != UNDEFINED
    }
    recalls = evaluation.recall_thresholds.tolist()
    name = "mean"
    while name in curves:  # a class may be called so
        name += " of all classes"
    mean = {name: np.mean(list(curves.values()), axis=0).tolist()} if curves else {}
    drawn = dict(list((mean | curves).items())[: CHART_ROWS // len(recalls)])
    return wandb.plot.line_series(
        xs=recalls,
        ys=list(drawn.values()),
        keys=list(drawn),
        title="Precision over recall, IoU 0.5",
        xname="recall",
        split_table=True,
    )


def confusion_matrix(mistakes: Mistakes) -> Any:
    """Return which classes are taken for which; of many classes only what happened."""
    import wandb

    count = len(mistakes.names)
    rows = [
        [
            "(no object)" if true == count else mistakes.names[true],
            "(no box)" if found == count else mistakes.names[found],
            int(mistakes.confusion[true, found]),
        ]
        for true, found in np.ndindex(*mistakes.confusion.shape)
        if mistakes.confusion[true, found] or (count + 1) ** 2 <= CHART_ROWS
    ]
    return wandb.plot_table(
        data_table=wandb.Table(columns=["Actual", "Predicted", "nPredictions"], data=rows),
        vega_spec_name="wandb/confusion_matrix/v1",
        fields={name: name for name in ("Actual", "Predicted", "nPredictions")},
        string_fields={"title": f"Confusion of classes, scores from {mistakes.score:.2f}"},
        split_table=True,
    )


def boxed_image(example: Example) -> Any:
    """Return an image with ground truth and predictions, to be shown or hidden in the browser."""
    import wandb

    boxes = {"ground_truth": _boxes(example.truth, example.names, example.image)}
    predicted = example.predicted.above(KEPT_SCORE)
    if predicted.labels or not example.truth.labels:
        boxes["predictions"] = _boxes(predicted, example.names, example.image)
    masks = None
    if example.segments is not None:
        masks = {
            kind: _mask(segments, example.names)
            for kind, segments in zip(("true_segments", "segments"), example.segments, strict=True)
        }
    # JPEG: a thirtieth of the size of PNG.
    return wandb.Image(example.image.convert("RGB"), boxes=boxes, masks=masks, caption=example.caption, file_type="jpg")


def _cells(row: Iterable[Any]) -> list[Any]:
    """Plain values; nothing instead of a number that does not exist."""
    plain = [value.item() if isinstance(value, np.generic) else value for value in row]
    return [None if isinstance(value, float) and (value == UNDEFINED or value != value) else value for value in plain]


def _mask(segments: Segments, names: Sequence[str]) -> dict[str, Any]:
    """wandb's own format: the class of each pixel, counted from 1, so that 0 is void; it has room for 255."""
    classes = np.array([0, *(label + 1 for label in segments.labels)])
    present = sorted(set(segments.labels))
    return {
        "mask_data": classes[segments.ids],
        "class_labels": {0: "void", **{label + 1: names[label] for label in present}},
    }


def _boxes(boxes: Boxes, names: Sequence[str], image: Image.Image) -> dict[str, Any]:
    """wandb's own format: corners relative to the image, a score where there is one."""
    width, height = image.size
    data = []
    for index, (label, (left, top, right, bottom)) in enumerate(zip(boxes.labels, boxes.corners, strict=True)):
        corners = {"minX": left / width, "maxX": right / width, "minY": top / height, "maxY": bottom / height}
        entry: dict[str, Any] = {"position": corners, "class_id": label, "box_caption": names[label]}
        if boxes.scores is not None:
            score = boxes.scores[index]
            entry |= {"scores": {"score": score}, "box_caption": f"{names[label]} {score:.2f}"}
        data.append(entry)
    return {"box_data": data, "class_labels": dict(enumerate(names))}
