"""Evaluate a checkpoint: see evaluate.py.

detr evaluate checkpoint=outputs/train/DATE/checkpoints/best.pt split=test
"""

from detr.config import Config
from detr.entry import entry_point


@entry_point("evaluate", deferred=True)
def main(config: Config) -> None:
    from detr.run import evaluate  # torch takes seconds, which --help, --cfg and a typo need not wait for

    evaluate(config)
