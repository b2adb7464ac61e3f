"""Evaluate a checkpoint; `detr evaluate` is the same. `python evaluate.py --help`: see detr/commands/evaluate.py."""

from detr.commands.evaluate import main

if __name__ == "__main__":
    main()
