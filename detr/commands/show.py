"""Show what a model will receive: the first batch, augmented and padded, with its objects drawn.

detr show                                                # of the quickstart; any experiment, any override of train.py
detr show experiment=small_data dataset.root=DATA        # boxes, masks or segments, and where the padding is
detr show dataset=custom dataset.root=DATA split=val output=val.png  # as an evaluation has it, without augmentation
detr show experiment=dino_r50 dataset.root=DATA          # with denoising queries: what they are told and should say

A line is printed for each image: its file, its stored size, its size here, the padded one, its objects.
seed=1 shows another batch, dataloader.batch_size=8 more images.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from detr.config import Config
from detr.entry import entry_point
from detr.errors import UserError

if TYPE_CHECKING:
    from detr.config.containers import Section
    from detr.data.dataset import ImageSet
    from detr.data.loader import Loader
    from detr.models.detr import DETR

SUFFIXES = (".jpg", ".jpeg", ".png")


@entry_point("show")
def main(config: Config) -> None:
    output = Path(config.values["output"])
    if output.suffix.lower() not in SUFFIXES:
        raise UserError(f"output={output}: expected a picture's name, which ends with .jpg or .png")
    show(config, output)


def show(config: Config, output: Path) -> None:
    """Write the first batch of a split as a picture, and print what is in it."""
    # Here: torch takes seconds, which --help and a typo need not wait for.
    from detr.assembly import build_model, check_model
    from detr.config.blame import own_parts_blamed
    from detr.drawing.batches import batch_sheet, described
    from detr.environment import seed_everything
    from detr.files import write_with
    from detr.tracking.console import Terminal

    values, console = config.values, Terminal()
    with own_parts_blamed(values):
        check_model(values)
        seed_everything(values["seed"])
        images = images_of(values)
        model = build_model(values, images.classes, pretrained=False)
        batch = next(iter(loader_of(images, values, model)))
        noised = copies = None
        if values["split"] == "train":
            noised = None if model.denoising is None else model.denoising.noised(batch.targets)
            copies = None if model.one_to_many is None else (model.one_to_many.copies, model.queries.further)
        sheet = batch_sheet(batch, images.classes, noised=noised, copies=copies)
    form = "PNG" if output.suffix.lower() == ".png" else "JPEG"
    write_with(output, lambda stream: sheet.save(stream, form, quality=90))
    for line in described(batch, images.classes):
        console.print(line, soft_wrap=True)
    console.print(f"picture  {output}", soft_wrap=True)


def images_of(values: Section) -> ImageSet:
    """Return the split, augmented if it is that of a training."""
    from detr.assembly import build_data, split_of, training_data
    from detr.config import build

    if values["split"] == "train":
        return training_data(values, values["trainer"]["overfit_batches"])[0]
    return split_of(build_data(values), values["split"], transform=build(values["augmentation"]["eval"]))


def loader_of(images: ImageSet, values: Section, model: DETR) -> Loader:
    """Return the loader that a training or an evaluation would have, in this process."""
    from detr.assembly import build_loader, eval_batch_size
    from detr.data.loader import eval_loader

    node, divisor = values["dataloader"], model.backbone.size_divisor
    if values["split"] != "train":
        return eval_loader(images, batch_size=eval_batch_size(node, model), num_workers=0, size_divisor=divisor)
    return build_loader(values, images, model, num_workers=0)
