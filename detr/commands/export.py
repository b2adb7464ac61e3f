"""Write a detector as a file that runs without this project, and check that it answers as the detector does.

detr export checkpoint=outputs/train/DATE/checkpoints/best.pt format=onnx       # best.onnx beside it
detr export checkpoint=PATH format=onnx outputs=detections                      # with post-processing inside
detr export checkpoint=PATH format=openvino precision=fp16 output=FILE.xml
detr export checkpoint=PATH format=onnx precision=int8 calibration=mydata/images   # best_int8.onnx
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
  precision=fp32      fp16: weights in half precision, which is half the size; for onnx and openvino. int8: convolutions
                      in 8 bits, which is faster where they are most of the work; for onnx
  calibration=FOLDER  for int8: images like those to come, without labels, of which up to 100 are used
  output=FILE         the file to write; by default beside the checkpoint
  any key of the training, as for evaluate.py
"""

from pathlib import Path

from detr.config import Config
from detr.entry import entry_point
from detr.errors import UserError


@entry_point("export", deferred=True)
def main(config: Config) -> None:
    values = config.values
    checkpoint, layout = values["checkpoint"], values["format"]
    _check_calibration(layout, values["precision"], values["calibration"])
    # Here: torch takes seconds, which a typo need not wait for.
    from detr.exporting.export import default_output, export, export_in_8_bits
    from detr.exporting.hugging_face import export_folder
    from detr.exporting.program import Wish
    from detr.exporting.source import find
    from detr.tracking.model_card import carry_card
    from detr.weights.export import export as export_weights

    if layout == "hugging_face":
        source = find(checkpoint, config.aside, config.folders)
        written = export_folder(source, Path(values["output"] or default_output(source, "_hugging_face")))
    elif layout != "official":
        wish = Wish(values["outputs"], values["precision"])
        source = find(checkpoint, config.aside, config.folders)
        if wish.precision == "int8":
            written, _ = export_in_8_bits(source, wish, values["calibration"], values["output"])
        else:
            written, _ = export(source, layout, wish, values["output"])
    elif checkpoint is None:
        raise UserError("format=official writes the weights of a checkpoint: give checkpoint=PATH")
    else:
        written = export_weights(checkpoint, layout, values["output"])
    if checkpoint is not None:
        carry_card(checkpoint, written)


def _check_calibration(layout: str, precision: str, calibration: str | None) -> None:
    """Raises UserError where precision=int8 and calibration= are not given together, and for ONNX."""
    if precision != "int8":
        if calibration is not None:
            raise UserError(f"calibration={calibration}: is for precision=int8")
    elif layout != "onnx":
        raise UserError(f"precision=int8: format={layout} is not written in 8 bits; use format=onnx")
    elif calibration is None:
        raise UserError("precision=int8: give calibration=FOLDER, a folder of images like those to come")
