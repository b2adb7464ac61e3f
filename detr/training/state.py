"""What a training needs to go on as if nothing had happened: into a checkpoint and back, for every process."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any, Protocol

import torch
from torch.optim.swa_utils import AveragedModel

from detr import distributed
from detr.data.loader import TrainLoader
from detr.environment import seed_torch
from detr.errors import UserError
from detr.models.detr import DETR
from detr.training.meter import Meter
from detr.training.options import Progress
from detr.weights.checkpoint import Checkpoint, Recipe, load_weights

log = logging.getLogger(__name__)


class Training(Protocol):
    """Holds what of a training goes into a checkpoint and comes back."""

    recipe: Recipe
    model: DETR
    ema: AveragedModel | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    loader: TrainLoader
    progress: Progress
    meter: Meter
    device: torch.device


def own_state(training: Training) -> dict[str, Any]:
    """Return what differs from process to process."""
    cuda = training.device.type == "cuda"
    return {
        "random_state": torch.get_rng_state(),
        "cuda_random_state": torch.cuda.get_rng_state(training.device) if cuda else None,
        "meter": training.meter.state(),
    }


def capture(training: Training, states: list[dict[str, Any]], wandb_id: str | None) -> Checkpoint:
    """Return the checkpoint; `states` has every process's own."""
    ema = training.ema
    return Checkpoint(
        training.recipe,
        model=training.model.state_dict(),
        ema=None if ema is None else ema.module.state_dict(),
        trainer={
            "progress": asdict(training.progress),
            "optimizer": training.optimizer.state_dict(),
            "scaler": training.scaler.state_dict(),
            "ema_updates": None if ema is None else ema.n_averaged,
            "images_per_batch": training.loader.images_per_batch,
            "batches_per_epoch": training.loader.batches_per_epoch,
            "processes": states,
        },
        wandb_id=wandb_id,
    )


def restore(training: Training, checkpoint: Checkpoint, source: str) -> None:
    """Continue from a checkpoint.

    Raises:
        UserError: it is of another model or another optimizer.
    """
    state = checkpoint.trainer
    assert state is not None
    load_weights(training.model, checkpoint.model, source)
    if (training.ema is None) != (checkpoint.ema is None):
        raise UserError(f"{source} was trained {'with' if training.ema is None else 'without'} trainer.ema_decay")
    if training.ema is not None:
        assert checkpoint.ema is not None
        load_weights(training.ema.module, checkpoint.ema, source)
        training.ema.n_averaged.copy_(state["ema_updates"])
    try:
        training.optimizer.load_state_dict(state["optimizer"])
    except ValueError as error:
        raise UserError(f"{source} was trained with other parameter groups; use the optimizer it had") from error
    if state["scaler"]:  # else it was trained without one, in another precision
        training.scaler.load_state_dict(state["scaler"])
    training.progress = Progress(**state["progress"])
    _find_place(training, training.progress, state, source)
    _restore_own(training, state["processes"], source)


def _restore_own(training: Training, states: list[dict[str, Any]], source: str) -> None:
    """This process's own state; with another number of processes, random numbers start anew."""
    if len(states) != distributed.world_size():
        log.warning(
            "%s was written by %d process(es), but the run continues with %d: random numbers start anew",
            *(source, len(states), distributed.world_size()),
        )
        training.meter = Meter.restored([each["meter"] for each in states], training.device)
        seed_torch(torch.initial_seed(), training.progress.step, distributed.rank())
        return
    own = states[distributed.rank()]
    training.meter = Meter.restored([own["meter"]], training.device)
    torch.set_rng_state(own["random_state"])
    if own["cuda_random_state"] is not None and training.device.type == "cuda":
        torch.cuda.set_rng_state(own["cuda_random_state"], training.device)


def _find_place(training: Training, progress: Progress, state: dict[str, Any], source: str) -> None:
    """How many batches of the unfinished epoch are done, where batches have another size than they had."""
    before, now = state["images_per_batch"], training.loader.images_per_batch
    if before == now or not progress.batches:
        return
    whole = training.loader.batches_per_epoch
    if progress.batches == state["batches_per_epoch"]:
        progress.batches = whole
        return
    images = progress.batches * before
    progress.batches = min(images // now, whole)
    log.warning(
        "%s was written with %d images in a batch of all processes, but the run continues with %d: the learning rate "
        "stays as it was, and %d images of the unfinished epoch come again",
        *(source, before, now, images - progress.batches * now),
    )
