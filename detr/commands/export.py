"""Write a checkpoint's weights in another layout.

detr export checkpoint=outputs/train/DATE/checkpoints/best.pt format=official              # best_official.pth beside it
detr export checkpoint=PATH format=official output=FILE
"""

from detr.config import Config
from detr.entry import entry_point


@entry_point("export")
def main(config: Config) -> None:
    from detr.weights.export import export  # torch takes seconds, which a typo need not wait for

    export(config.values["checkpoint"], config.values["format"], config.values["output"])
