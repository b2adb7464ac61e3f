"""How a run is called, tagged and grouped in W&B, and which config it has there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detr.tracking.record import RunRecord

NAME_LENGTH = 120  # characters of a run's name; W&B takes 128
TAG_LENGTH = 64  # W&B takes 1 to 64

# What says nothing about the experiment: where a run lies, who is told of it, what it runs on.
OUTWARD = (
    *("name", "license", "resume", "resume_changed", "paths", "logger", "hydra"),
    *("trainer.device", "dataloader.num_workers"),
)

UNCONFIGURED = ("logger", "paths")  # of the config, W&B does not show what only says where it goes

TAGGED_CHOICES = (
    "experiment",
    "detector",
    "dataset",
    "backbone",
    "transformer",
    "queries",
    "loss",
)  # their options become tags
DEFAULT = "default"  # the setting of a run without overrides


def describe(run_name: str, overrides: Sequence[str]) -> str:
    """Return a run's name: the experiment's and what sets this run apart, each key without the path to it.

    "detr_r50_coco" with ["transformer.d_model=128", "logger=none"] is "detr_r50_coco d_model=128".
    """
    kept = _without(overrides, ("experiment", *OUTWARD))
    words = [re.sub(r"^[^=]*?([^.=@]+)(@[^=]*)?=", r"\1=", override) for override in kept]
    return cut(" ".join([run_name, *words]))


def cut(name: str) -> str:
    """Return a name that W&B takes."""
    return name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1] + "…"


def setting(record: RunRecord) -> str:
    """Return what runs that differ by their seed alone have in common: their overrides, of a sweep what differs."""
    return " ".join(sorted(_without(_apart(record), ("seed", *OUTWARD)))) or DEFAULT


def run_title(run_name: str, record: RunRecord) -> str:
    """Return the name of a run."""
    return describe(run_name, _apart(record))


def run_group(run_name: str, record: RunRecord) -> str:
    """Return what a run belongs to: its sweep, of a single run the experiment."""
    return cut(str((record.sweep or {}).get("name", run_name)))


def run_tags(configured: Sequence[str], record: RunRecord) -> list[str]:
    """Return the tags of a run, each once: those that were asked for, the sweep, the parts."""
    chosen = [str(record.choices[group]) for group in TAGGED_CHOICES if record.choices.get(group)]
    sweep = [] if record.sweep is None else [str(record.sweep["name"])]
    return [tag[:TAG_LENGTH] for tag in dict.fromkeys([*configured, *sweep, *chosen]) if tag]


def run_config(
    stored: Mapping[str, Any], record: RunRecord, *, training: RunRecord | None = None, run_name: str = ""
) -> dict[str, Any]:
    """Return the config for W&B: each value once, where a user sets it; `setting` and `choices/GROUP` at the top.

    Args:
        stored: the config with its references as they stand: what refers to a value is no second one.
        record: of the run; its facts come under `info`.
        training: that an evaluation belongs to, which gives setting and choices; `training` says which it is.
        run_name: of the experiment.
    """
    about = training or record
    facts = record.to_dict()
    del facts["choices"]
    if "code" in facts:
        facts["code"] = {name: facts["code"][name] for name in ("digest", "packages")}  # its files are an artifact
    belongs = {}
    if training is not None:
        checkpoint = facts.pop("checkpoint", {})
        belongs["training"] = {
            "name": run_title(run_name, training),
            "run_id": checkpoint.pop("wandb_id", None),
            "folder": checkpoint.pop("run", None),
            "checkpoint": checkpoint,
        }
    return {
        "setting": setting(about),
        **{f"choices/{group}": option for group, option in about.choices.items() if group not in UNCONFIGURED},
        **{key: value for key, value in stored.items() if key not in UNCONFIGURED},
        **belongs,
        "info": facts,
    }


def _apart(record: RunRecord) -> list[str]:
    """The overrides that set a run apart."""
    return list((record.sweep or {}).get("differs", record.overrides))


def _without(overrides: Sequence[str], keys: Sequence[str]) -> list[str]:
    """The overrides of other keys; of a key that was given twice the last."""
    kept = {}
    for override in (each.lstrip("+") for each in overrides):
        key = override.lstrip("~").partition("=")[0]
        if not any(key == name or key.startswith((f"{name}.", f"{name}/")) for name in keys):
            kept[key] = override
    return list(kept.values())
