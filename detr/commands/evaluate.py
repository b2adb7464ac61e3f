"""Evaluate a checkpoint on a split. Its own config is the base; overrides are applied to it.

detr evaluate checkpoint=outputs/train/DATE/checkpoints/best.pt                 # on the validation split
detr evaluate checkpoint=PATH split=test dataset.root=/path/to/data             # data that lie elsewhere by now
detr evaluate checkpoint=detr_r50 dataset.root=/path/to/coco                    # published weights
detr evaluate -m checkpoint=A/checkpoints/best.pt,B/checkpoints/best.pt split=test

Arguments are KEY=VALUE:

  checkpoint=PATH          a checkpoint, an https address, or the name of published weights (detr_r50, …)
  split=val                train | val | test
  tiles=PIXELS             look at larger images in tiles of this side, too; overlap=0.2 of it
  report=true              an error report as well: analysis.html, see `detr analyse --help`; iou=masks: of masks
  logger=wandb             a run of its own in Weights & Biases
  hydra.run.dir=FOLDER     where metrics.json, predictions.json and pictures go; outputs/evaluate/DATE by default
  any key of the training  dataset.root=…, dataloader.batch_size=…, trainer.device=…

Flags: -m one evaluation for each combination of values; --cfg job shows the config; --hydra-help shows all.

Where to look: `detr options` lists groups, `detr options GROUP=OPTION` every key with its meaning.
"""

from detr.config import Config
from detr.entry import entry_point


@entry_point("evaluate", deferred=True)
def main(config: Config) -> None:
    from detr.run import evaluate  # torch takes seconds, which --help, --cfg and a typo need not wait for

    evaluate(config)
