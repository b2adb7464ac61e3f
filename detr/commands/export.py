"""Write a checkpoint's weights in another layout.

detr export checkpoint=outputs/train/DATE/checkpoints/best.pt format=official              # best_official.pth beside it
detr export checkpoint=PATH format=official output=FILE
"""

from omegaconf import DictConfig

from detr.entry import entry_point


@entry_point("export")
def main(config: DictConfig) -> None:
    from detr.weights.export import export  # torch takes seconds, which a typo need not wait for

    export(config.checkpoint, config.format, config.output)
