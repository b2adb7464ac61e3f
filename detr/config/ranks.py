"""Runs of several processes (torchrun): the first composes and owns the run folder, the others are told what to do.

Each process on its own would get another time in `${now:…}`, and a folder for itself.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import setup_globals
from omegaconf import DictConfig

from detr import distributed
from detr.errors import UserError

Task = Callable[[DictConfig], None]


@dataclass
class Order:
    """One run."""

    config: DictConfig
    hydra: HydraConf  # its own node
    directory: str  # where relative paths start


def leading(task: Task) -> Task:
    """The task, announced to the other processes first."""

    @functools.wraps(task)
    def lead(config: DictConfig) -> None:
        if not distributed.started():
            raise UserError(
                "torchrun starts the processes already; a launcher that starts some of its own does not go with it: "
                "leave out hydra/launcher=…, or torchrun"
            )
        hydra = HydraConfig.instance().cfg
        assert hydra is not None
        distributed.from_main(Order(config, hydra, os.getcwd()))
        task(config)

    return lead


@contextmanager
def leadership() -> Iterator[None]:
    """Around everything that the first process does; in the end, the others are dismissed."""
    distributed.start()
    yield
    distributed.from_main(None)
    distributed.stop()


def follow(task: Task) -> None:
    """Do what the first process announces, until it has no more. Its folder, console and logs are its own."""
    distributed.start()
    setup_globals()
    logging.getLogger().addHandler(logging.NullHandler())  # else Python shows warnings on stderr
    while True:
        order: Order | None = distributed.from_main(None)
        if order is None:
            break
        if order.directory != os.getcwd() and os.path.isdir(order.directory):
            os.chdir(order.directory)  # hydra.job.chdir
        HydraConfig.instance().cfg = order.hydra
        task(order.config)
    distributed.stop()


def ending(job: Task) -> Task:
    """The job; with several processes its failure is everybody's end, also in a multirun: they are out of step."""

    @functools.wraps(job)
    def end(config: DictConfig) -> None:
        try:
            job(config)
        except Exception as error:
            if distributed.world_size() == 1:
                raise
            raise Failed(error) from error

    return end


class Failed(BaseException):
    """An exception that Hydra must not take for the failure of one job of many."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error
