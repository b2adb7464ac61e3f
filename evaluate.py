"""Evaluate a checkpoint; `detr evaluate` is the same. Its own config is the base; overrides are applied to it.

python evaluate.py checkpoint=outputs/train/DATE/checkpoints/best.pt
python evaluate.py checkpoint=PATH split=test dataset.root=/path/to/data
python evaluate.py checkpoint=detr-r50-e632da11.pth experiment=detr_r50_coco dataset.root=/path/to/coco
"""

from detr.commands.evaluate import main

if __name__ == "__main__":
    main()
