"""What W&B keeps of a run as artifacts, by whose content it knows what is the same."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from detr.config.recorded import CONFIG, HYDRA, Recorded
from detr.tracking.record import RunRecord

BEST = "best.pt"  # the checkpoint that a training keeps as an artifact
CODE = "code"  # folder of a run with the sources that are not part of the package


def model(path: Path, name: str, run_id: str | None) -> Any:
    """Return a checkpoint of a run; the file must stay in its place until it is uploaded."""
    import wandb

    artifact = wandb.Artifact(_name(name, run_id), type="model")
    # Immutable: without a copy in wandb's cache, which for a large model and many runs would fill the disk.
    artifact.add_file(str(path), policy="immutable")
    return artifact


def code(folder: Path, run_id: str | None) -> Any | None:
    """Return config and own sources in a run's folder; None where there are none."""
    import wandb

    files = [file for name in (HYDRA, CODE) for file in sorted((folder / name).rglob("*")) if file.is_file()]
    if not files:
        return None
    artifact = wandb.Artifact(_name("code", run_id), type="code")
    for file in files:
        artifact.add_file(str(file), name=file.relative_to(folder).as_posix())
    return artifact


def data(config: Mapping[str, Any], record: RunRecord, choice: str) -> Any | None:
    """Return a reference to the data set, of which nothing is uploaded: the same annotations are the same version.

    Args:
        config: with its references as they stand.
        record: with the fingerprint of each split.
        choice: the option of `dataset`.
    """
    import wandb
    from wandb.sdk.artifacts.artifact_manifest_entry import ArtifactManifestEntry
    from wandb.sdk.lib.paths import LogicalPath

    if not record.data:
        return None
    root = Recorded(dict(config), [], Path(CONFIG), Path()).section("dataset.root")
    place = None if root is None else Path(str(root)).absolute()
    name = choice if place is None or place.name == choice else f"{choice}-{place.name}"
    own = () if "train" in record.data else record.data  # an evaluation's splits are no version of a training's
    splits = {split: asdict(fingerprint) for split, fingerprint in record.data.items()}
    artifact = wandb.Artifact(_name(name, *own), type="dataset", metadata={"root": str(place or ""), "splits": splits})
    for split, fingerprint in record.data.items():
        reference = f"{'dataset:' + choice if place is None else place.as_uri()}#{split}"
        # Not add_reference: it would take the place for what tells data sets apart, and list every image.
        artifact.manifest.add_entry(
            ArtifactManifestEntry(
                path=LogicalPath(split), ref=reference, digest=fingerprint.digest, size=fingerprint.images
            )
        )
    return artifact


def _name(*parts: str | None) -> str:
    return re.sub(r"[^\w.-]", "-", "-".join(part for part in parts if part))
