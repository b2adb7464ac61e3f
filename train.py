"""Train a detector; `detr train` is the same. `python train.py --help` says how: see detr/commands/train.py."""

from detr.commands.train import main

if __name__ == "__main__":
    main()
