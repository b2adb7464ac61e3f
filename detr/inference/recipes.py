"""The config that weights belong to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detr.config import override
from detr.errors import UserError
from detr.weights.sources import Weights


def config_of(weights: Weights, overrides: Sequence[str], folders: Sequence[str] = ()) -> Any:
    """Return the config of weights, for `detr.config.check`: a checkpoint's own, else that of their detector.

    Args:
        folders: of configs, beside conf/; where there are none, those of the checkpoint's training.

    Raises:
        UserError: neither the weights nor the overrides say which detector or experiment that is.
    """
    if weights.checkpoint is not None:
        recipe = weights.checkpoint.recipe
        return override(recipe.located(), overrides, folders or recipe.folders)
    if any(each.startswith(("experiment=", "detector=")) for each in overrides):
        return override({}, overrides, folders)
    if not weights.config:
        raise UserError(
            f"{weights.source} has no config of its own; give detector=NAME or the experiment it belongs to, such as "
            f"{' or '.join(weights.likely_configs())}"
        )
    return override({}, [*weights.config, *overrides], folders)
