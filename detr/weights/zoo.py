"""The published weights of the official DETR by name, and downloads (facebookresearch/detr, hubconf.py)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from detr.errors import UserError
from detr.models.hub import download_timeout

SERVER = "https://dl.fbaipublicfiles.com/detr/"


@dataclass(frozen=True)
class Published:
    """Holds one file of weights."""

    file: str  # its name ends in the first digits of its SHA-256
    experiment: str  # the config that it was trained with

    @property
    def address(self) -> str:
        return SERVER + self.file

    @property
    def sha256(self) -> str:
        """Return the first digits."""
        return self.file.removesuffix(".pth").rpartition("-")[2]


ZOO = {
    "detr_r50": Published("detr-r50-e632da11.pth", "detr_r50_coco"),
    "detr_r50_dc5": Published("detr-r50-dc5-f0fb7ef5.pth", "detr_r50_dc5_coco"),
    "detr_r101": Published("detr-r101-2c7b67e5.pth", "detr_r101_coco"),
    "detr_r101_dc5": Published("detr-r101-dc5-a2e86def.pth", "detr_r101_dc5_coco"),
    "detr_r50_panoptic": Published("detr-r50-panoptic-00ce5173.pth", "detr_r50_panoptic"),
    "detr_r50_dc5_panoptic": Published("detr-r50-dc5-panoptic-da08f1b1.pth", "detr_r50_dc5_panoptic"),
    "detr_r101_panoptic": Published("detr-r101-panoptic-40021d53.pth", "detr_r101_panoptic"),
}


def is_address(source: str) -> bool:
    return source.startswith(("https://", "http://"))


def fetch(address: str) -> Path:
    """Return the local copy of an address, downloaded when first asked for; a published file must have its hash.

    Published files lie where torch.hub looks for them. Others get a folder for their address: checkpoints of
    different runs are all called best.pt.

    Raises:
        UserError: no connection, no such file, or another hash.
    """
    name = address.partition("?")[0].rpartition("/")[2] or "checkpoint"
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    published = next((each for each in ZOO.values() if each.address == address), None)
    path = folder / name if published else folder / hashlib.sha256(address.encode()).hexdigest()[:16] / name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        download(address, path, published.sha256 if published else None)
    return path


def download(address: str, path: Path, sha256: str | None) -> None:
    """Download all of a file or nothing.

    Args:
        sha256: its first digits, if they are known.

    Raises:
        UserError: no connection, no such file, or another hash.
    """
    try:
        with download_timeout():
            torch.hub.download_url_to_file(address, str(path), hash_prefix=sha256)
    except (OSError, ValueError) as error:  # URLError and HTTPError are OSErrors
        raise UserError(
            f"{address} could not be downloaded ({error}); download it elsewhere and give its path"
        ) from error
    except RuntimeError as error:
        raise UserError(
            f"{address} was damaged during the download: its SHA-256 is not {sha256}…; try again"
        ) from error
