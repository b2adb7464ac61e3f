"""Train a detector, or many: a part by its name, a value by its key.

detr train                                                  # the quickstart: embedded data, minutes on a CPU
detr train experiment=small_data dataset.root=mydata        # a few hundred images of your own, COCO format
detr train loss=focal transformer.dropout=0.2 seed=1        # another part, another value, another seed
detr train -m loss=detr,focal seed=1,2,3                    # one run for each combination: a sweep
detr train hydra.run.dir=outputs/train/DATE resume=auto     # go on where a run stopped

Arguments are KEY=VALUE: GROUP=OPTION chooses a part (groups are listed below), any other key sets a value. Most used:

  experiment=NAME          a detector with its data and schedule; what follows on the command line changes it
  dataset.root=FOLDER      where the images and annotations are
  trainer.max_steps=1000   how long to train; also max_epochs, max_minutes: the first limit that is reached counts
  optimizer.lr=1e-4        the learning rate; optimizer.lr_by_pattern.backbone=1e-5 that of the backbone
  dataloader.batch_size=8  images of a step; trainer.accumulate=2 takes several batches a step
  trainer.device=auto      auto | cpu | cuda | cuda:1 …
  seed=42                  of everything that is drawn at random
  init_from=WEIGHTS        start from other weights: a checkpoint, or published ones by name
  logger=none              without Weights & Biases; logger.mode=online logs there at once
  hydra.run.dir=FOLDER     the run's folder, outputs/train/DATE unless told otherwise

Flags:

  -m                       one run for each combination of values; hydra.sweep.dir=FOLDER is the sweep's folder
  -cd sweeps -cn NAME      one of the sweeps in sweeps/
  --cfg job                show the config and do nothing
  -sc install=bash         completion with Tab in a checkout: eval "$(python train.py -sc install=bash)"
  --hydra-help             all flags

Where to look: `detr options` lists groups, `detr options GROUP=OPTION` every key with its meaning.
"""

from detr.config import Config
from detr.entry import entry_point


@entry_point("train")
def main(config: Config) -> None:
    from detr.run import train  # torch takes seconds, which --help, --cfg and a typo need not wait for

    train(config)
