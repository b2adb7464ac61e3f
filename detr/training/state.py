"""What a training needs to go on as if nothing had happened: into a checkpoint and back, for every process."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from detr import distributed
from detr.environment import seed_torch
from detr.errors import UserError
from detr.training.meter import Meter
from detr.training.options import Progress
from detr.weights.checkpoint import load_weights

if TYPE_CHECKING:
    from detr.training.trainer import Trainer

log = logging.getLogger(__name__)


def own_state(trainer: Trainer) -> dict[str, Any]:
    """What differs from process to process."""
    cuda = trainer.device.type == "cuda"
    return {
        "random_state": torch.get_rng_state(),
        "cuda_random_state": torch.cuda.get_rng_state(trainer.device) if cuda else None,
        "meter": trainer.meter.state(),
    }


def capture(trainer: Trainer, states: list[dict[str, Any]]) -> dict[str, Any]:
    """The checkpoint; `states` has every process's own."""
    ema = trainer.ema
    return trainer.facts | {
        "model": trainer.model.state_dict(),
        "ema": None if ema is None else ema.module.state_dict(),
        "wandb_id": trainer.logger.run_id,
        "trainer": {
            "progress": asdict(trainer.progress),
            "optimizer": trainer.optimizer.state_dict(),
            "scaler": trainer.scaler.state_dict(),
            "ema_updates": None if ema is None else ema.n_averaged,
            "images_per_batch": trainer.loader.images_per_batch,
            "batches_per_epoch": trainer.loader.batches_per_epoch,
            "processes": states,
        },
    }


def restore(trainer: Trainer, checkpoint: dict[str, Any], source: str) -> None:
    """Go on from a checkpoint.

    Raises:
        UserError: it is of another model or another optimizer.
    """
    state = checkpoint["trainer"]
    if "processes" not in state:
        raise UserError(f"{source} was written by an earlier version; start from its weights with init_from={source}")
    load_weights(trainer.model, checkpoint["model"], source)
    if (trainer.ema is None) != (checkpoint["ema"] is None):
        raise UserError(f"{source} was trained {'with' if trainer.ema is None else 'without'} trainer.ema_decay")
    if trainer.ema is not None:
        load_weights(trainer.ema.module, checkpoint["ema"], source)
        trainer.ema.n_averaged.copy_(state["ema_updates"])
    try:
        trainer.optimizer.load_state_dict(state["optimizer"])
    except ValueError as error:
        raise UserError(f"{source} was trained with other parameter groups; use the optimizer it had") from error
    if state["scaler"]:  # else it was trained without one, in another precision
        trainer.scaler.load_state_dict(state["scaler"])
    trainer.progress = Progress(**state["progress"])
    _find_place(trainer, trainer.progress, state, source)
    _restore_own(trainer, state["processes"], source)


def _restore_own(trainer: Trainer, states: list[dict[str, Any]], source: str) -> None:
    """This process's own state; with another number of processes, random numbers start anew."""
    if len(states) != distributed.world_size():
        log.warning(
            "%s was written by %d process(es), and goes on with %d: random numbers start anew",
            *(source, len(states), distributed.world_size()),
        )
        trainer.meter = Meter.restored([each["meter"] for each in states], trainer.device)
        seed_torch(torch.initial_seed(), trainer.progress.step, distributed.rank())
        return
    own = states[distributed.rank()]
    trainer.meter = Meter.restored([own["meter"]], trainer.device)
    torch.set_rng_state(own["random_state"])
    if own["cuda_random_state"] is not None and trainer.device.type == "cuda":
        torch.cuda.set_rng_state(own["cuda_random_state"], trainer.device)


def _find_place(trainer: Trainer, progress: Progress, state: dict[str, Any], source: str) -> None:
    """How many batches of the unfinished epoch are done, where batches have another size than they had."""
    before, now = state["images_per_batch"], trainer.loader.images_per_batch
    if before == now or not progress.batches:
        return
    whole = trainer.loader.batches_per_epoch
    if progress.batches == state["batches_per_epoch"]:
        progress.batches = whole
        return
    images = progress.batches * before
    progress.batches = min(images // now, whole)
    log.warning(
        "%s was written with %d images in a batch of all processes, and goes on with %d: the learning rate is as it "
        "was, and %d images of the unfinished epoch come again",
        *(source, before, now, images - progress.batches * now),
    )
