"""Evaluate a checkpoint. Its own config is the base; overrides are applied to it.

python evaluate.py checkpoint=outputs/train/DATE/checkpoints/best.pt
python evaluate.py checkpoint=PATH split=test dataset.root=/path/to/data
python evaluate.py checkpoint=detr-r50-e632da11.pth experiment=detr_r50_coco dataset.root=/path/to/coco
"""

from omegaconf import DictConfig

from detr.entry import entry_point


@entry_point("evaluate", deferred=True)
def main(config: DictConfig, overrides: list[str]) -> None:
    from detr.run import evaluate  # torch takes seconds, which --help, --cfg and a typo need not wait for

    evaluate(config, overrides)


if __name__ == "__main__":
    main()
