"""Panoptic predictions as COCO wants them submitted: a PNG of segment ids for each image, and a JSON."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detr.data.panoptic.segment_ids import save_segment_ids
from detr.errors import UserError
from detr.files import write_json


class Submission:
    """Collects segments of a split. They wait on the disk, so that memory does not grow with the data set.

    The temporary folder goes when nothing refers to the object any more.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="detr-panoptic-")
        self._annotations: dict[int, dict[str, Any]] = {}

    @property
    def folder(self) -> Path:
        """Return where the PNGs are."""
        return Path(self._folder.name)

    def __contains__(self, image_id: int) -> bool:
        return image_id in self._annotations

    def __len__(self) -> int:
        return len(self._annotations)

    def add(self, image_id: int, file_name: str, ids: NDArray[np.integer], segments: list[dict[str, Any]]) -> None:
        """Add one image.

        Args:
            image_id: as in the ground truth.
            file_name: of the PNG.
            ids: [H, W]; 0 is void.
            segments: id, category_id and what else is known of each.

        Raises:
            UserError: the disk is full.
            ValueError: the image came before.
        """
        if image_id in self._annotations:
            raise ValueError(f"image {image_id} is evaluated twice")
        try:
            save_segment_ids(ids, self.folder / file_name)
        except OSError as error:
            raise UserError(
                f"{self.folder}: no room for panoptic predictions until they are moved to the run's folder "
                f"({error.strerror or error}); free some space, or set TMPDIR to another folder"
            ) from error
        self._annotations[image_id] = {"image_id": image_id, "file_name": file_name, "segments_info": segments}

    def content(self) -> dict[str, Any]:
        """Return the JSON."""
        return {"annotations": list(self._annotations.values())}

    def save(self, folder: Path) -> None:
        """Write FOLDER/panoptic/*.png and FOLDER/panoptic.json, in place of those that are there.

        Raises:
            UserError: the folder cannot be written, or the disk is full.
        """
        target = folder / "panoptic"
        fresh, old = (folder / f".panoptic.{uuid.uuid4().hex}" for _ in range(2))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copytree(self.folder, fresh)
            fresh.chmod(0o755)  # temporary folders are for their owner only
            if target.exists():
                os.rename(target, old)
            os.rename(fresh, target)
        except OSError as error:
            raise UserError(
                f"cannot write {target}: {error.strerror or error}; free some space, or choose a folder you may write "
                "to with paths.output_root=FOLDER"
            ) from error
        finally:
            for leftover in (fresh, old):
                shutil.rmtree(leftover, ignore_errors=True)
        write_json(folder / "panoptic.json", self.content())
