"""Train a detector: see train.py.

detr train                                     # the quickstart
detr train dataset=custom dataset.root=DATA    # your own COCO-format data
"""

from detr.config import Config
from detr.entry import entry_point


@entry_point("train")
def main(config: Config) -> None:
    from detr.run import train  # torch takes seconds, which --help, --cfg and a typo need not wait for

    train(config)
