"""A detector as a folder that Hugging Face's transformers loads."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save

from detr.data.transforms import ResizeShortSide, ResizeSquare, ShrinkLongSide
from detr.errors import UserError
from detr.exporting.source import Source
from detr.files import staged, write_atomically, write_json
from detr.models.detr import DETR
from detr.structures import Classes
from detr.weights.hugging_face import CONFIG, FAMILIES, FILES, Family

log = logging.getLogger(__name__)

PROCESSOR = "preprocessor_config.json"


def export_folder(source: Source, output: Path) -> Path:
    """Write a detector as `from_pretrained` of transformers reads it, and return the folder.

    The config comes last, so that a folder that has one is whole.

    Args:
        source: the detector.
        output: the folder; what is there is replaced where it has the same name.

    Raises:
        UserError: no family of transformers has these parts, or the folder cannot be written to.
    """
    family, config = family_of(source.model)
    ours = {
        name: tensor
        for name, tensor in source.model.state_dict().items()
        if family.denoising or "denoising." not in name
    }
    tensors = family.layout.to_theirs(ours, source.name)
    contents = {
        FILES[0]: save({name: tensor.contiguous() for name, tensor in tensors.items()}, {"format": "pt"}),
        CONFIG: config | names(family, source.model, source.classes),
        PROCESSOR: processor(family, source),
    }
    with staged(output / CONFIG) as draft:
        for name, content in contents.items():
            if isinstance(content, bytes):
                write_atomically(draft.with_name(name), content)
            else:
                write_json(draft.with_name(name), content, indent=2)
    log.info("wrote %d weights and how images are prepared to %s", len(tensors), output)
    return output


def family_of(model: DETR) -> tuple[Family, dict[str, Any]]:
    """Return which family of transformers has these parts, and what its config.json says of them.

    Raises:
        UserError: none has.
    """
    reasons: list[UserError] = []
    for module in dict.fromkeys(family.module for family in FAMILIES.values()):
        family = next(each for each in FAMILIES.values() if each.module == module)
        try:
            config = family.layout.config_of(model)
            return FAMILIES[config["model_type"]], config
        except UserError as error:
            reasons.append(error)
    said = "; ".join(str(reason) for reason in reasons)
    raise UserError(f"format=hugging_face: transformers has no detector with these parts: {said}")


def names(family: Family, model: DETR, classes: Classes) -> dict[str, Any]:
    """Return what a config.json says of a detector's class and of its classes."""
    task = "ObjectDetection" if model.mask_head is None else family.segmentation
    return {
        "architectures": [f"{family.classes}For{task}"],
        "id2label": {str(index): name for index, name in enumerate(classes.names)},
        "label2id": {name: index for index, name in enumerate(classes.names)},
        "dtype": "float32",
    }


def processor(family: Family, source: Source) -> dict[str, Any]:
    """Return how an evaluation prepares images, as the image processors of transformers are told."""
    backbone = source.model.backbone
    plain = not backbone.mean.any() and bool((backbone.std == 1).all())
    return {
        "image_processor_type": family.processor,
        "do_resize": True,
        "size": _size(source.transform),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": not plain,
        "image_mean": backbone.mean.flatten().tolist(),
        "image_std": backbone.std.flatten().tolist(),
        "do_pad": True,
        "format": "coco_detection",
    }


def _size(transform: Any) -> dict[str, int]:
    """The size that an evaluation scales images to."""
    if isinstance(transform, ResizeSquare):
        return dict.fromkeys(("height", "width"), _only(transform.sizes))
    if isinstance(transform, ResizeShortSide):
        longest = {} if transform.max_size is None else {"longest_edge": transform.max_size}
        return {"shortest_edge": _only(transform.sizes), **longest}
    if isinstance(transform, ShrinkLongSide):
        return dict.fromkeys(("max_height", "max_width"), transform.max_size)
    raise UserError(
        f"augmentation.eval: format=hugging_face cannot say what {type(transform).__name__} does; "
        "use ResizeShortSide, ResizeSquare or ShrinkLongSide"
    )


def _only(sizes: Sequence[int]) -> int:
    if len(sizes) != 1:
        raise UserError(f"augmentation.eval.sizes: format=hugging_face needs one size, got {list(sizes)}")
    return sizes[0]
