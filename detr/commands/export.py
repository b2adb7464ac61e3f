"""Write a detector as a file that runs without this project, and check that it answers as the detector does.

detr export checkpoint=outputs/train/DATE/checkpoints/best.pt format=onnx       # best.onnx beside it
detr export checkpoint=PATH format=onnx outputs=detections                      # with post-processing inside
detr export checkpoint=PATH format=openvino precision=fp16 output=FILE.xml
detr export checkpoint=PATH format=official                                     # best_official.pth beside it
detr export checkpoint=PATH format=hugging_face                                 # a folder that transformers loads
detr export detector=rt_detr_r50 format=torch_export                            # random weights, to measure with

Arguments are KEY=VALUE:

  checkpoint=PATH     a checkpoint, an https address, or the name of published weights
  detector=NAME       instead of a checkpoint: with random weights; or experiment=NAME
  format=onnx         onnx | openvino | torch_export (PyTorch alone reads it) | hugging_face (a folder for transformers:
                      where it has such a detector) | official (the layout of the official DETR: the paper's only)
  outputs=logits      logits: of the last decoder layer, and boxes in [0, 1]; detections: scores, labels and boxes in
                      pixels of the original image, as an evaluation has them
  precision=fp32      fp16: weights in half precision, which is half the size; for onnx and openvino
  output=FILE         the file to write; by default beside the checkpoint
  any key of the training, as for evaluate.py
"""

from pathlib import Path

from detr.config import Config
from detr.entry import entry_point
from detr.errors import UserError


@entry_point("export", deferred=True)
def main(config: Config) -> None:
    # Here: torch takes seconds, which a typo need not wait for.
    from detr.exporting.export import default_output, export
    from detr.exporting.hugging_face import export_folder
    from detr.exporting.program import Wish
    from detr.exporting.source import find
    from detr.tracking.model_card import carry_card
    from detr.weights.export import export as export_weights

    values = config.values
    checkpoint, layout = values["checkpoint"], values["format"]
    if layout == "hugging_face":
        source = find(checkpoint, config.aside, config.folders)
        written = export_folder(source, Path(values["output"] or default_output(source, "_hugging_face")))
    elif layout != "official":
        source = find(checkpoint, config.aside, config.folders)
        written, _ = export(source, layout, Wish(values["outputs"], values["precision"]), values["output"])
    elif checkpoint is None:
        raise UserError("format=official writes the weights of a checkpoint: give checkpoint=PATH")
    else:
        written = export_weights(checkpoint, layout, values["output"])
    if checkpoint is not None:
        carry_card(checkpoint, written)
