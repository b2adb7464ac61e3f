"""DETR and its family: detection transformers composed by Hydra, trained in plain PyTorch, compared in W&B."""

import importlib
import os
from typing import Any

__all__ = ["Detector"]
__version__ = "0.1.0"

# OpenMP's threads wait for each other by spinning, which on a busy machine takes the time that the others need: beside
# one other process on two cores a training ran at a tenth of its speed. With little spinning it keeps half of it, and
# alone it is hardly slower (docs/recipes.md has numbers). Read when torch is imported; what the user has set stays.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # of GNU's OpenMP, in rounds; its default is millions
    os.environ.setdefault("KMP_BLOCKTIME", "1")  # of Intel's and LLVM's, in milliseconds; its default is 200

# A convolution of one size has its own compiled kernel, of which oneDNN keeps 1,024. A training with images of six
# sizes has more, and compiled some of them again in every step, for a tenth of its time. 4,096 take about 100 MB, once
# there are as many. Read with the first convolution.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "4096")


def __getattr__(name: str) -> Any:
    """Return `Detector`, imported when it is first asked for: it brings torch, which takes seconds."""
    if name == "Detector":
        return importlib.import_module("detr.inference.detector").Detector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
