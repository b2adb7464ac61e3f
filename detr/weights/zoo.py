"""Published weights by name, and downloads (of the official DETR: facebookresearch/detr, hubconf.py)."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, snapshot_download, try_to_load_from_cache

from detr.errors import UserError
from detr.models.hub import TIMEOUT, download_timeout, first_line

SERVER = "https://dl.fbaipublicfiles.com/detr/"
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class OfficialFile:
    """Holds one file of the official DETR."""

    file: str  # its name ends in the first digits of its SHA-256
    experiment: str  # that it was trained with

    @property
    def address(self) -> str:
        return SERVER + self.file

    @property
    def sha256(self) -> str:
        """Return the first digits."""
        return self.file.removesuffix(".pth").rpartition("-")[2]


@dataclass(frozen=True)
class HubFolder:
    """Holds one repository of the Hugging Face Hub."""

    repository: str


PRETRAINED = "_o365"
RESNETS = ("r18", "r34", "r50", "r101")

# By the detector's name, of those on the Hub; what had seen Objects365 before COCO ends in _o365.
ZOO: dict[str, OfficialFile | HubFolder] = {
    "detr_r50": OfficialFile("detr-r50-e632da11.pth", "detr_r50_coco"),
    "detr_r50_dc5": OfficialFile("detr-r50-dc5-f0fb7ef5.pth", "detr_r50_dc5_coco"),
    "detr_r101": OfficialFile("detr-r101-2c7b67e5.pth", "detr_r101_coco"),
    "detr_r101_dc5": OfficialFile("detr-r101-dc5-a2e86def.pth", "detr_r101_dc5_coco"),
    "detr_r50_panoptic": OfficialFile("detr-r50-panoptic-00ce5173.pth", "detr_r50_panoptic"),
    "detr_r50_dc5_panoptic": OfficialFile("detr-r50-dc5-panoptic-da08f1b1.pth", "detr_r50_dc5_panoptic"),
    "detr_r101_panoptic": OfficialFile("detr-r101-panoptic-40021d53.pth", "detr_r101_panoptic"),
    "conditional_detr_r50": HubFolder("microsoft/conditional-detr-resnet-50"),
    "dab_detr_r50": HubFolder("IDEA-Research/dab-detr-resnet-50"),
    "deformable_detr_r50": HubFolder("SenseTime/deformable-detr"),
    "deformable_detr_r50_refine": HubFolder("SenseTime/deformable-detr-with-box-refine"),
    "deformable_detr_r50_two_stage": HubFolder("SenseTime/deformable-detr-with-box-refine-two-stage"),
    **{f"rt_detr_{size}": HubFolder(f"PekingU/rtdetr_{size}vd") for size in RESNETS},
    **{f"rt_detr_{size}_o365": HubFolder(f"PekingU/rtdetr_{size}vd_coco_o365") for size in ("r18", "r50", "r101")},
    **{
        f"d_fine_{size[0]}": HubFolder(f"ustc-community/dfine-{size}-coco")
        for size in ("nano", "small", "medium", "large", "xlarge")
    },
    **{
        f"d_fine_{size[0]}_o365": HubFolder(f"ustc-community/dfine-{size}-obj2coco{'-e25' * (size == 'large')}")
        for size in ("small", "medium", "large", "xlarge")
    },
    **{
        f"lw_detr_{size}": HubFolder(f"AnnaZhang/lwdetr_{size}_60e_coco")
        for size in ("tiny", "small", "medium", "large", "xlarge")
    },
    **{
        f"rf_detr_{size}": HubFolder(f"Roboflow/rf-detr-{size}")
        for size in ("nano", "small", "medium", "base", "large")
    },
    **{
        f"rf_detr_seg_{size}": HubFolder(f"Roboflow/rf-detr-seg-{size.replace('2x', 'xx')}")
        for size in ("nano", "small", "medium", "large", "xlarge", "2xlarge")
    },
    **{f"rt_detr_v2_{size}": HubFolder(f"PekingU/rtdetr_v2_{size}vd") for size in RESNETS},
}


def detector_of(name: str) -> str:
    """Return the detector of weights on the Hub by their name."""
    return name.removesuffix(PRETRAINED)


def official_files() -> list[OfficialFile]:
    """Return those that lie on the official server."""
    return [each for each in ZOO.values() if isinstance(each, OfficialFile)]


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
    published = next((each for each in official_files() if each.address == address), None)
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


def fetch_folder(repository: str) -> Path:
    """Return the local copy of a repository of the Hugging Face Hub, downloaded when first asked for.

    It lies where the hub's own client keeps it. What is downloaded has the SHA-256 that the hub states for it.

    Raises:
        UserError: no connection, no such repository, or a file that was damaged.
    """
    files = ["config.json", "model.safetensors"]
    try:
        missing = any(try_to_load_from_cache(repository, file) is None for file in files)
        if missing:
            get_hf_file_metadata(hf_hub_url(repository, files[-1]), timeout=TIMEOUT)  # fails at once when offline
        folder = Path(snapshot_download(repository, allow_patterns=files, local_files_only=not missing))
    except Exception as error:  # the client raises many kinds for "offline"
        raise UserError(
            f"{repository} could not be downloaded from the Hugging Face Hub ({first_line(error)}); "
            "download it elsewhere and give the folder"
        ) from error
    blob = (folder / files[-1]).resolve()  # the cache calls files by their SHA-256
    if missing and SHA256.fullmatch(blob.name) and hashlib.sha256(blob.read_bytes()).hexdigest() != blob.name:
        blob.unlink()
        raise UserError(f"{repository} was damaged during the download: its SHA-256 is not the Hub's; try again")
    return folder
