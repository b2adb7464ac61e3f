"""DETR and its family: detection transformers composed by Hydra, trained in plain PyTorch, compared in W&B."""

__version__ = "0.1.0"
