"""What a file says about itself, so that it can be used without this project."""

from __future__ import annotations

from typing import Any

import detr
from detr.assembly import eval_batch_size
from detr.data.transforms import ResizeShortSide, ResizeSquare, ShrinkLongSide
from detr.errors import described
from detr.exporting.program import Traced
from detr.exporting.source import Source
from detr.weights.checkpoint import identity

INPUTS: dict[str, dict[str, Any]] = {
    "images": {"dtype": "uint8", "shape": ["batch", 3, "height", "width"], "is": "RGB, zeros where padding is"},
    "padding": {"dtype": "bool", "shape": ["batch", "height", "width"], "is": "true where no image is"},
    "original_sizes": {"dtype": "int64", "shape": ["batch", 2], "is": "(height, width) that boxes are scaled to"},
}
OUTPUTS: dict[str, dict[str, Any]] = {
    "logits": {"dtype": "float32", "shape": ["batch", "queries", "logits"], "is": "of each class"},
    "boxes": {"dtype": "float32", "shape": ["batch", "queries", 4], "is": "cxcywh in [0, 1] of the unpadded image"},
    "masks": {"dtype": "float32", "shape": ["batch", "queries", "mask_height", "mask_width"], "is": "mask logits"},
}
DETECTIONS: dict[str, dict[str, Any]] = {
    "scores": {"dtype": "float32", "shape": ["batch", "detections"], "is": "descending"},
    "labels": {"dtype": "int64", "shape": ["batch", "detections"], "is": "class index"},
    "boxes": {"dtype": "float32", "shape": ["batch", "detections", 4], "is": "xyxy in pixels of original_sizes"},
    "masks": OUTPUTS["masks"] | {"shape": ["batch", "detections", "mask_height", "mask_width"]},
}
MASKS = {"resize": "bilinear to (height, width) of images", "threshold": 0.0, "then": "crop, nearest to original_sizes"}


def metadata_of(source: Source, traced: Traced) -> dict[str, Any]:
    """Return plain values: what goes in and comes out, classes, and what to do before and after."""
    outputs = OUTPUTS if traced.wish.outputs == "logits" else DETECTIONS
    facts = {} if source.weights is None else identity(source.name, source.weights.checkpoint)
    return {
        "producer": f"detr-lab {detr.__version__}",
        "source": {"name": source.name} | {key: facts[key] for key in ("sha256", "epoch", "step") if key in facts},
        "precision": traced.wish.precision,
        "inputs": {name: INPUTS[name] for name in traced.input_names},
        "outputs": {name: outputs[name] for name in traced.output_names},
        "classes": source.classes.to_dict(),
        "preprocessing": _preprocessing(source),
        "postprocessing": _postprocessing(source),
    }


def _preprocessing(source: Source) -> dict[str, Any]:
    backbone = source.model.backbone
    return {
        "colour": "RGB, 0 to 255, upright: EXIF's orientation applied",
        "resize": _resizing(source.transform),
        "pad": {"where": "bottom and right", "value": 0, "size_divisor": backbone.size_divisor},
        "normalize": {
            "by": "the file",
            "mean": backbone.mean.flatten().tolist(),
            "std": backbone.std.flatten().tolist(),
        },
        "batch_size": eval_batch_size(source.values["dataloader"], source.model),
    }


def _resizing(transform: Any) -> dict[str, Any]:
    """How large images become, in the order of `docs/onnx_example.py`."""
    if isinstance(transform, ResizeShortSide):
        return {"kind": "short side", "size": transform.sizes[-1], "max_size": transform.max_size, "by": "bilinear"}
    if isinstance(transform, ResizeSquare):
        return {"kind": "square", "size": transform.sizes[-1], "by": "bilinear"}
    if isinstance(transform, ShrinkLongSide):
        return {"kind": "shrink long side", "max_size": transform.max_size, "by": "bilinear"}
    return {"kind": "own", "transform": described(type(transform))}


def _postprocessing(source: Source) -> dict[str, Any]:
    softmax = source.model.classification == "softmax"
    return {
        "classification": source.model.classification,
        "scores": "softmax without the last logit, the best class of each query"
        if softmax
        else "sigmoid, the best pairs of a query and a class",
        "max_detections": None if softmax else source.max_detections,
        "threshold": None,
        "suppression": None,
        "masks": None if source.model.mask_head is None else MASKS,
    }
