"""Checkpoints: writing, reading and fitting them into a model.

A checkpoint is a dictionary of plain containers and tensors: `model` (and `ema` where there is one), `config`
(unresolved) and `classes`, which is everything needed to rebuild the detector, and the trainer's state to resume.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn

from detr.errors import UserError
from detr.files import write_with

log = logging.getLogger(__name__)

FORMAT = 1  # of the dictionary; raised when an older reader would misread it
SHOWN = 3  # how many names of a kind a report of differences gives


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write all of it or nothing. Raises UserError where the folder cannot be written."""
    write_with(path, lambda stream: torch.save({"format": FORMAT, **content}, stream))


def load_checkpoint(source: str | Path) -> dict[str, Any]:
    """Read a checkpoint of ours from a path or an https address, without running any code that it might hold.

    Raises:
        UserError: not there, unreadable, truncated, or not a checkpoint of this project.
    """
    content = _download(str(source)) if str(source).startswith(("https://", "http://")) else _read(Path(source))
    if not isinstance(content, dict) or not {"format", "model", "config", "classes"} <= content.keys():
        raise UserError(f"{source} is no checkpoint of this project: it lacks model, config or classes")
    if content["format"] > FORMAT:
        raise UserError(f"{source} was written by a newer version of detr; update to read it")
    return content


def newest_intact(folder: Path) -> dict[str, Any] | None:
    """The newest readable checkpoint of a run, None if there is none; unreadable ones are named in a warning."""
    paths = sorted(folder.glob("*.pt"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in paths:
        try:
            content = load_checkpoint(path)
        except UserError as error:
            log.warning("%s; trying an older checkpoint", error)
            continue
        if "trainer" in content:
            return content
    return None


def load_weights(model: nn.Module, weights: dict[str, Tensor], source: str | Path) -> None:
    """Strictly: every name and shape must fit.

    Raises:
        UserError: with a report of what differs.
    """
    wanted = model.state_dict()
    differences = {
        "missing": [name for name in wanted if name not in weights],
        "not in the model": [name for name in weights if name not in wanted],
        "of another shape": [
            f"{name} {list(weights[name].shape)} instead of {list(wanted[name].shape)}"
            for name in wanted
            if name in weights and weights[name].shape != wanted[name].shape
        ],
    }
    reports = [_shorten(kind, names) for kind, names in differences.items() if names]
    if reports:
        raise UserError(f"the weights of {source} do not fit the model: {'; '.join(reports)}; use the config it had")
    model.load_state_dict(weights)


def weights_to_evaluate(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The moving average where there is one, as in the evaluations during training."""
    return checkpoint["model"] if checkpoint.get("ema") is None else checkpoint["ema"]


def _shorten(kind: str, names: list[str]) -> str:
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} {kind} ({', '.join(names[:SHOWN])}{rest})"


def _read(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a truncated or foreign file
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(f"{path} cannot be read as a checkpoint: truncated, or of another kind ({reason})") from error


def _download(address: str) -> Any:
    try:
        return torch.hub.load_state_dict_from_url(address, map_location="cpu", weights_only=True)
    except (URLError, OSError) as error:
        raise UserError(f"{address} could not be downloaded ({error}); give a local path") from error
