"""Train a detector; `detr train` is the same.

python train.py                                                    # the quickstart: embedded data, minutes on a CPU
python train.py dataset=custom dataset.root=/path/to/data          # your own COCO-format data
python train.py experiment=detr_r50_coco dataset.root=/path/to/coco
python train.py queries.num_queries=50 matcher.cost_giou=4         # any value; any part: backbone=…, loss=…
python train.py -m optimizer.lr=1e-3,3e-4                          # one run for each value
python train.py resume=outputs/train/DATE/checkpoints/last.pt      # go on where a run stopped
python train.py --cfg job                                          # show the composed config
"""

from detr.commands.train import main

if __name__ == "__main__":
    main()
