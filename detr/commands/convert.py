"""Write a data set in another format: COCO's JSON, YOLO's text files or Pascal VOC's XML.

detr convert dataset.root=DATA format=yolo output=FOLDER                   # from whichever of the three DATA is in
detr convert dataset=voc dataset.root=DATA format=coco output=FOLDER       # from the one that is named
detr convert dataset.root=DATA dataset.holdout=0.2 format=coco output=FOLDER   # a fifth of train becomes val
"""

from pathlib import Path

from detr.config import Config
from detr.entry import entry_point


@entry_point("convert")
def main(config: Config) -> None:
    from detr.config import build  # with torch, which --help and a typo need not wait for
    from detr.data.converting.convert import convert
    from detr.data.splits import Splits
    from detr.errors import UserError
    from detr.texts import visible

    data = build(config.values["dataset"])
    if not isinstance(data, Splits):
        raise UserError(f"dataset: {type(data).__name__} cannot be converted; it is no detr.data.splits.Splits")
    for line in convert(data, config.values["format"], Path(config.values["output"])):
        print(visible(line))
    print(f"written to {visible(config.values['output'])}")
