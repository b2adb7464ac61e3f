"""What the authors' package (rfdetr) says of images; run by `test_rfdetr_package` where that package is installed.

python rfdetr_reference.py write FOLDER RFDETRNano …   # random weights in the authors' file, and what they answer
python rfdetr_reference.py answer FOLDER RFDETRNano    # what weights answer that were written elsewhere
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import rfdetr
import torch
from PIL import Image
from safetensors.torch import load_file


def package(name: str) -> Any:
    torch.manual_seed(0)
    return getattr(rfdetr, name)(pretrain_weights=None, device="cpu")


def spread(network: torch.nn.Module) -> None:
    """Let queries differ: a fresh head says the same box and class of all."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith(("bbox_embed", "transformer.enc_out_bbox_embed", "refpoint_embed")):
                parameter.add_(torch.randn_like(parameter) * 0.05)
            if name.startswith(("class_embed.weight", "transformer.enc_out_class_embed")) and parameter.ndim > 1:
                parameter.mul_(4)
            if name == "class_embed.bias":
                parameter.add_(2)


def answers(detector: Any, folder: Path) -> dict[str, Any]:
    """What network and `predict` say, in double precision: rounding else changes the order of proposals."""
    torch.set_default_dtype(torch.float64)
    network = detector.model.model.double().eval()
    images = torch.load(folder / f"{detector.model.resolution}.pt").double()
    with torch.no_grad():
        said = network(images)
    picture = Image.open(folder / f"{detector.model.resolution}.png")
    each = detector.predict(picture, threshold=0.0, include_source_image=False)
    found = {
        "boxes": torch.from_numpy(each.xyxy),
        "scores": torch.from_numpy(each.confidence),
        "labels": torch.from_numpy(each.class_id),
        "masks": None if each.mask is None else torch.from_numpy(np.asarray(each.mask)),
    }
    torch.set_default_dtype(torch.float32)
    outputs = {name: value for name, value in said.items() if isinstance(value, torch.Tensor)}
    return {"outputs": outputs, "encoder": said["enc_outputs"], "found": found}


def main(verb: str, place: str, *names: str) -> None:
    folder = Path(place)
    for name in names:
        detector = package(name)
        network = detector.model.model
        if verb == "write":
            spread(network)
            detector.export_for_roboflow(folder / name)  # weights.pt
        else:
            state = load_file(folder / name / "model.safetensors")
            missing = network.load_state_dict(state, strict=False)
            assert not missing.unexpected_keys, missing
            assert missing.missing_keys == ["_kp_active_mask"], missing
        torch.save(answers(detector, folder), folder / name / f"{verb}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
