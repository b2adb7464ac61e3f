"""What the authors' package (rfdetr) says of images; run by `test_rfdetr_package` where that package is installed.

python rfdetr_reference.py write FOLDER RFDETRNano …   # random weights in the authors' file, and what they answer
python rfdetr_reference.py answer FOLDER RFDETRNano    # what weights answer that were written elsewhere
python rfdetr_reference.py masks FOLDER                # losses and costs of masks, of what given.pt has
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


def masks(folder: Path) -> None:
    """Losses from random numbers of seed 1, costs from those of seed 2."""
    from rfdetr.models.criterion import SetCriterion
    from rfdetr.models.matcher import HungarianMatcher

    given = torch.load(folder / "given.pt")
    products = {
        "spatial_features": given["pixels"],
        "query_features": given["queries"],
        "bias": given["bias"],
    }
    targets = [{"masks": each} for each in given["masks"].split(given["counts"])]
    image, query, target = (torch.tensor(given[name]) for name in ("image", "query", "target"))
    indices = [(query[image == each], target[image == each]) for each in range(2)]
    criterion = SetCriterion(3, HungarianMatcher(), {}, 0.25, ["masks"])
    torch.manual_seed(1)
    losses = criterion.loss_masks({"pred_masks": products}, targets, indices, torch.tensor(5.0))
    torch.manual_seed(2)
    costs = HungarianMatcher()._compute_mask_costs({"pred_masks": products}, targets)
    torch.save({name: each.item() for name, each in losses.items()} | {"costs": list(costs)}, folder / "masks.pt")


def main(verb: str, place: str, *names: str) -> None:
    folder = Path(place)
    if verb == "masks":
        masks(folder)
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
