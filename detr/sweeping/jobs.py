"""The config of each job of a sweep, composed and checked before any of them starts."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from detr.config.compose import hydra_config, without_hydra
from detr.config.exchange import checked
from detr.config.explain import CommandLine, explain
from detr.config.own import folders_in
from detr.errors import UserError
from detr.texts import in_hydra

PRUNING = "+callbacks.pruning={_target_: detr.sweeping.pruning.StopPoorTrials}"
RESUME = "resume=auto"  # a job that was pre-empted and queued again goes on; a new one starts afresh


class JobComposer:
    """Composes jobs as Hydra's launchers do.

    Args:
        loader: Hydra's, with all folders of configs.
        master: the config that the sweep was started with.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self.loader = loader
        self.master = master
        self.config_name = str(master.hydra.job.config_name)
        self.resumable = "resume" in master and master.resume is None
        raw = OmegaConf.to_container(master.hydra.sweep, resolve=False)
        self.subdir = str(raw["subdir"])  # type: ignore[index, call-overload]

    def own(self, overrides: Sequence[str]) -> list[str]:
        """Return the overrides that tell a job from others, which resuming does not."""
        return [override for override in overrides if override != RESUME]

    @property
    def numbered(self) -> str:
        """Return advice that gives every job a folder of its own."""
        subdir = in_hydra(f"{self.subdir}_${{hydra:job.num}}", interpolated=True)
        return f"give each its own with {shlex.quote(f'hydra.sweep.subdir={subdir}')}"

    def check_pruning(self) -> None:
        """Raise UserError if the jobs are no trainings, whose evaluations could be watched."""
        if "callbacks" not in self.master:
            raise UserError("hydra.sweeper.pruner stops trainings early, and these jobs are none; leave it out")

    def folder(self, number: int, overrides: Sequence[str]) -> str:
        """Compose and check a job; its folder below the sweep's.

        Raises:
            UserError: a key or an option that does not exist, a value that nothing can be built from; a folder that
                is not below the sweep's.
        """
        try:
            config = self.loader.load_sweep_config(self.master, list(overrides))
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            command = CommandLine(self.config_name, list(overrides), folders_in(self.master.hydra))
            raise UserError(explain(error, command)) from error
        with open_dict(config):
            config.hydra.job.num = number
            config.hydra.job.id = str(number)
        checked(without_hydra(config), config.hydra)
        with hydra_config(config):
            folder = os.path.normpath(str(config.hydra.sweep.subdir))
        if folder == "." or Path(folder).is_absolute() or ".." in Path(folder).parts:
            raise UserError(f"hydra.sweep.subdir={folder} is no folder below the sweep's own; each job needs one")
        return folder

    def additions(self, folder: str, *, pruning: bool = False) -> list[str]:
        """Return what a job is given beside its own overrides: the place that it has, whatever others run beside it."""
        more = [RESUME] * self.resumable + [PRUNING] * pruning
        return [*more, f"hydra.sweep.subdir={in_hydra(folder)}"]
