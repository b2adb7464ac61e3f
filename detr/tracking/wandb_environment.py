"""What W&B's environment variables say of a run, and where they are set aside: they were made for one run."""

from __future__ import annotations

import logging
import os
import secrets
import string
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

from pydantic import AfterValidator

from detr.errors import UserError
from detr.tracking.identity import TAG_LENGTH

log = logging.getLogger(__name__)

LENGTH = 128  # characters of a name; wandb refuses longer ones of projects, W&B's server those of runs and groups
FORBIDDEN = "/\\#?%:"  # in parts of an address


def _name(value: str) -> str:
    if not 0 < len(value) <= LENGTH:
        raise ValueError(f"a name of 1 to {LENGTH} characters, as W&B takes it")
    return value


def _address(value: str) -> str:
    if len(value) > LENGTH or set(value) & set(FORBIDDEN):
        raise ValueError(f"a name of at most {LENGTH} characters, without any of {' '.join(FORBIDDEN)} as W&B takes it")
    return value


def _tag(value: str) -> str:
    if not 0 < len(value) <= TAG_LENGTH:
        raise ValueError(f"a tag of 1 to {TAG_LENGTH} characters, as W&B takes it")
    return value


Address = Annotated[str, AfterValidator(_address)]  # of a project or an entity
Name = Annotated[str, AfterValidator(_name)]  # of a run or a group
Tag = Annotated[str, AfterValidator(_tag)]


def under_agent() -> bool:
    """Return whether a W&B agent runs this process: it then says which run it is."""
    return "WANDB_SWEEP_ID" in os.environ


def project() -> str | None:
    """Return the project that the environment names. Raises UserError if W&B does not take it."""
    return _variable("WANDB_PROJECT", _address)


def group() -> str | None:
    """Return the group that the environment names. Raises UserError if W&B does not take it."""
    return _variable("WANDB_RUN_GROUP", _name)


def tags() -> list[str]:
    """Return the tags that the environment names. Raises UserError if W&B does not take them."""
    return [_checked("WANDB_TAGS", tag, _tag) for tag in os.environ.get("WANDB_TAGS", "").split(",") if tag]


def name(*, sweep: bool) -> str | None:
    """Return the name that the environment has for a run; the jobs of a sweep have their own.

    Raises:
        UserError: W&B does not take it.
    """
    if sweep:
        _set_aside("WANDB_NAME", "each job of a sweep has a name of its own; logger.name=… gives them one")
        return None
    return _variable("WANDB_NAME", _name)


def run_id(known: str | None, *, sweep: bool, taken: str | None = None) -> str | None:
    """Return the id that a run is to have; None: a new one.

    Args:
        known: of the run that goes on, as its checkpoint or its folder says.
        sweep: whether it is one of several jobs.
        taken: the id of the training that this evaluation is of.
    """
    given = os.environ.get("WANDB_RUN_ID") or None
    if sweep:
        _set_aside("WANDB_RUN_ID", "each job of a sweep is a run of its own")
        _set_aside("WANDB_RESUME", "each job of a sweep goes on as its checkpoint says")
        _set_aside("WANDB_SWEEP_ID", "an agent of W&B runs one training at a time, and this is a sweep of Hydra's")
        return known
    if under_agent():
        return given
    if known is not None:
        if given not in (None, known):
            _set_aside("WANDB_RUN_ID", f"the run goes on as {known}, as its checkpoint says")
        _set_aside("WANDB_RESUME", f"the run goes on as {known}, as its checkpoint says")
        return known
    if given is not None and given == taken:
        _set_aside("WANDB_RUN_ID", "that is the training's, and its evaluation is a run of its own")
        return None
    return given


def new_id() -> str:
    """Return an id as W&B makes them; no seed makes it."""
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8))


@contextmanager
def alone(*, sweep: bool) -> Iterator[None]:
    """Keep from wandb, meanwhile, what `run_id` has set aside: of an agent's sweep it would take all from there."""
    names = ("WANDB_RUN_ID", "WANDB_RESUME", "WANDB_SWEEP_ID") if sweep else ()
    hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


@contextmanager
def without_launch() -> Iterator[None]:
    """Keep wandb.init from importing, for half a second, what knows of inputs that were staged for a launched job.

    Where nobody has imported that before, there are none.
    """
    from wandb.sdk.wandb_run import Run

    name = "_detect_and_apply_job_inputs"  # wandb's own; one that calls it otherwise imports as before
    look = getattr(Run, name, None)
    if look is None or "wandb.sdk.launch" in sys.modules:
        yield
        return
    setattr(Run, name, lambda run: None)
    try:
        yield
    finally:
        setattr(Run, name, look)


def _variable(variable: str, check: Callable[[str], str]) -> str | None:
    value = os.environ.get(variable)
    return _checked(variable, value, check) if value else None


def _checked(variable: str, value: str, check: Callable[[str], str]) -> str:
    try:
        return check(value)
    except ValueError as error:
        shown = value if len(value) <= 80 else f"{value[:77]}…"
        raise UserError(f"{variable}: expected {error}, got {shown!r}") from None


def _set_aside(variable: str, why: str) -> None:
    value = os.environ.get(variable)
    if value:
        log.warning("%s=%s is set aside: %s", variable, value, why)
