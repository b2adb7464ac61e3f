"""Write a checkpoint's weights in another layout.

detr export checkpoint=outputs/train/DATE/checkpoints/best.pt format=official    # best_official.pth beside it
detr export checkpoint=PATH format=official output=FILE

Arguments are KEY=VALUE:

  checkpoint=PATH     a checkpoint, an https address, or the name of published weights
  format=official     the layout of the official DETR: the paper's detectors only
  output=FILE         the file to write; by default beside the checkpoint
"""

from detr.config import Config
from detr.entry import entry_point


@entry_point("export")
def main(config: Config) -> None:
    # Here: torch takes seconds, which a typo need not wait for.
    from detr.tracking.model_card import carry_card
    from detr.weights.export import export

    values = config.values
    carry_card(values["checkpoint"], export(values["checkpoint"], values["format"], values["output"]))
