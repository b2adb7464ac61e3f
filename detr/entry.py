"""Entry points: `hydra.main`, with a user's mistakes told in one line."""

from __future__ import annotations

import functools
import gc
import logging
import os
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from detr import distributed
from detr.config import ranks
from detr.config.check import check
from detr.config.compose import CONF, VERSION_BASE
from detr.config.explain import CommandLine, explain
from detr.config.suggest import closest, did_you_mean
from detr.errors import Interrupted, UserError
from detr.sweeping.devices import enter_worker
from detr.sweeping.plan import job_facts, write_state
from detr.sweeping.sweeper import register

log = logging.getLogger(__name__)

USER_ERROR = 2  # exit status
FAILED = 1  # as an exception that nobody catches
INTERRUPTED = 130  # 128 + SIGINT, as shells have it

RUN_FOLDER = "run folder: "


def entry_point(config_name: str, *, deferred: bool = False) -> Callable[[Callable[..., None]], Callable[[], None]]:
    """Decorate a script's main function: it is called with the composed and checked config, in a run's folder.

    A mistake of the user's ends in one line on stderr and exit status 2; every other exception keeps its
    traceback, and both are in the run's log. HYDRA_FULL_ERROR=1 shows every traceback.

    Args:
        config_name: the primary config in conf/.
        deferred: keep back the overrides of keys that the primary config does not have, and pass them as a
            second argument: for scripts whose real config is found in a checkpoint.
    """

    def decorate(task: Callable[..., None]) -> Callable[[], None]:
        @functools.wraps(task)
        def main() -> None:
            with user_errors():
                _run(task, config_name, deferred=deferred)

        return main

    return decorate


@contextmanager
def user_errors() -> Iterator[None]:
    """Around a whole program: a UserError becomes one line on stderr and exit status 2, Ctrl-C one line and 130.

    A training that was asked to stop has the signal's own status (SIGTERM 143, SIGUSR1 138). Of several processes the
    first that fails says why, and its traceback is the only one.
    """
    try:
        yield
    except UserError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        if distributed.first_to_fail():
            print(f"error: {_one_line(error)}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Interrupted as interruption:
        if distributed.is_main():
            print(interruption, file=sys.stderr)
        sys.exit(interruption.status)
    except Exception:
        if distributed.first_to_fail():
            raise
        print(f"process {distributed.rank()} ends, since another one failed", file=sys.stderr)
        sys.exit(FAILED)


def run_directory() -> Path:
    """The folder of the run that is under way."""
    return Path(HydraConfig.get().runtime.output_dir)


def run_facts() -> dict[str, Any]:
    """How the run was asked for: `choices` (group → option) and `overrides`, both without Hydra's own.

    A job of a sweep adds `sweep`: see `job_facts`.
    """
    hydra_config = HydraConfig.get()
    chosen: Any = OmegaConf.to_container(hydra_config.runtime.choices)
    choices = {group: option for group, option in chosen.items() if not group.startswith("hydra/")}
    facts = {"choices": choices, "overrides": list(hydra_config.overrides.task)}
    if hydra_config.mode == RunMode.MULTIRUN:
        facts["sweep"] = job_facts(Path(hydra_config.sweep.dir), run_directory())
    return facts


@dataclass
class _Outcome:
    """What became of a single run; Hydra would announce a failure with a line of its own."""

    error: UserError | None = field(default=None)


def _run(task: Callable[..., None], config_name: str, *, deferred: bool) -> None:
    args = _parse_arguments()
    kept, aside = _set_aside(args.overrides, config_name) if deferred else (args.overrides, [])
    command = CommandLine(args.config_name or config_name, list(kept), args.config_dir, args.multirun)
    outcome = _Outcome()
    own = functools.partial(task, overrides=aside) if deferred else task
    if not distributed.is_main():
        ranks.follow(own)
        return
    job = ranks.ending(_job(ranks.leading(own), task, outcome))
    logging.raiseExceptions = False  # a log file on a full disk must not bury the one line that says so
    with ranks.leadership():
        register()
        try:
            with _arguments(args.overrides, kept), _hydra_reraises():
                hydra.main(version_base=VERSION_BASE, config_path=str(CONF), config_name=config_name)(job)()
        except (HydraException, OmegaConfBaseException, OSError, ValueError) as error:
            if _from_task(error):
                raise
            raise UserError(explain(error, command)) from error
        except ranks.Failed as failure:
            raise failure.error from failure.error.__cause__
        if outcome.error is not None:
            raise outcome.error


def _job(
    task: Callable[[DictConfig], None], named: Callable[..., None], outcome: _Outcome
) -> Callable[[DictConfig], None]:
    """The function that Hydra runs; it is named after the script's own, which names the run's folder and log."""

    @functools.wraps(named)
    def job(config: DictConfig) -> None:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            _sweep_job(task, config)
            return
        try:
            check(config)
            task(config)
        except UserError as error:
            _log(error, everywhere=False, traceback=error.__cause__ is not None)
            outcome.error = error
        except Exception as error:
            _log(error, everywhere=False, traceback=True)
            error.add_note(f"{RUN_FOLDER}{run_directory()}")
            raise
        except (KeyboardInterrupt, Interrupted) as interruption:
            log.warning(str(interruption) or "interrupted")
            raise

    return job


class JobFailedError(UserError):
    """A job of a sweep failed; its log has the traceback."""


def _sweep_job(task: Callable[[DictConfig], None], config: DictConfig) -> None:
    """One job of a sweep. What becomes of it is noted in its folder, where the sweeper looks for it.

    Raises:
        JobFailedError: instead of any other exception, which might hold on to the tensors of the job through its
            traceback, or not fit through the pipe to the sweeper's process.
    """
    folder = run_directory()
    failure = None
    write_state(folder, "running")
    if HydraConfig.get().runtime.choices.get("hydra/launcher") == "joblib":
        enter_worker(Path(HydraConfig.get().sweep.dir) / ".workers")
    try:
        check(config)
        task(config)
    except Exception as error:
        _log(error, everywhere=True, traceback=True)
        failure = _one_line(error) if isinstance(error, UserError) else f"{type(error).__name__}: {_one_line(error)}"
    except (KeyboardInterrupt, Interrupted) as interruption:
        log.warning(str(interruption) or "interrupted")
        raise
    finally:
        gc.collect()  # modules and their gradients are cycles, and the next job needs the memory
    write_state(folder, "failed" if failure else "finished", failure)
    if failure:
        raise JobFailedError(failure)


def _from_task(error: BaseException) -> bool:
    return any(note.startswith(RUN_FOLDER) for note in getattr(error, "__notes__", []))


def _log(error: Exception, *, everywhere: bool, traceback: bool) -> None:
    """Into the run's log; to the console only where nobody else shows it."""
    message = _one_line(error) if isinstance(error, UserError) else f"failed: {type(error).__name__}"
    about = (type(error), error, error.__traceback__) if traceback else None
    for handler in logging.getLogger().handlers:
        in_file = isinstance(handler, logging.FileHandler)
        shown = about if in_file or not isinstance(error, UserError) else None
        if everywhere or in_file:
            handler.handle(log.makeRecord(log.name, logging.ERROR, __file__, 0, message, (), shown))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _parse_arguments() -> Namespace:
    """Hydra's command line."""
    parser = get_args_parser()
    flags = [flag for action in parser._actions for flag in action.option_strings]

    def refuse(message: str) -> NoReturn:
        wrong = message.removeprefix("unrecognized arguments: ").split()[0]
        hint = did_you_mean(wrong, flags) if wrong.startswith("-") else "; flags go before or behind all overrides"
        raise UserError(f"{message}{hint if wrong in sys.argv else ''}")

    parser.error = refuse  # type: ignore[method-assign]
    return parser.parse_args()


def _set_aside(overrides: Sequence[str], config_name: str) -> tuple[list[str], list[str]]:
    """Overrides of the primary config's own keys, and all others. Paths are everybody's.

    Raises:
        UserError: a key that looks like a misspelled one of the primary config's.
    """
    own = {"hydra", "paths", *map(str, OmegaConf.load(CONF / f"{config_name}.yaml"))} - {"defaults"}
    kept, aside = [], []
    for override in overrides:
        root = re.split(r"[.=/@:]", override.lstrip("+~"), maxsplit=1)[0]
        near = closest(root, own, 1)
        if root not in own and near:
            raise UserError(f"{root}: there is no such key; did you mean {near[0]}?")
        if root in own:
            kept.append(override)
        if root not in own or root == "paths":
            aside.append(override)
    return kept, aside


@contextmanager
def _arguments(overrides: Sequence[str], kept: Sequence[str]) -> Iterator[None]:
    """While Hydra reads the command line, only the overrides that are kept are on it."""
    before = sys.argv
    sys.argv = [arg for arg in before if arg not in overrides] + list(kept) if list(kept) != list(overrides) else before
    try:
        yield
    finally:
        sys.argv = before


@contextmanager
def _hydra_reraises() -> Iterator[None]:
    """Hydra raises what it would otherwise print."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before
