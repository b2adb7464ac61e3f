"""Entry points: Hydra's command line goes in, a checked `Config` comes out; a user's mistakes are told in one line."""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import inspect
import io
import logging
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from detr import distributed
from detr.config import Config
from detr.config.build import MissingModuleError
from detr.config.compose import CONF, as_choice, groups, offered
from detr.config.exchange import checked
from detr.config.explain import CommandLine, explain
from detr.config.home import typed_at_home
from detr.config.hydra_internals import parse_arguments, run
from detr.config.own import config_dir, folders_in, own_folders
from detr.config.recorded import noted
from detr.config.suggest import closest
from detr.errors import Interrupted, OccupiedError, UserError, in_words
from detr.files import LOCK, uncollected
from detr.sweeping.devices import enter_worker
from detr.sweeping.output import labelled
from detr.sweeping.plan import job_facts, job_label
from detr.sweeping.sweeper import register
from detr.tracking.status import update_status

log = logging.getLogger(__name__)

USER_ERROR = 2  # exit status
FAILED = 1  # as an exception that nobody catches
BROKEN_PIPE = 141  # 128 + SIGPIPE
INTERRUPTED = 130  # 128 + SIGINT, as shells have it

RUN_FOLDER = "run folder: "

Task = Callable[[Config], None]


def entry_point(config_name: str, *, deferred: bool = False) -> Callable[[Task], Callable[..., None]]:
    """Decorate a program's main function: it is called with the composed and checked config of each run.

    The program itself takes the command line, by default `sys.argv`. A mistake of the user's ends in one line on
    stderr and exit status 2; every other exception keeps its traceback, and both are in the run's log.
    HYDRA_FULL_ERROR=1 shows every traceback.

    Args:
        config_name: the primary config in conf/.
        deferred: keep back the overrides of keys that the primary config does not have, as `Config.aside`: for
            programs whose real config is found in a checkpoint.
    """

    def decorate(task: Task) -> Callable[..., None]:
        @functools.wraps(task)
        def main(arguments: Sequence[str] | None = None) -> None:
            with user_errors():
                _run(task, config_name, sys.argv[1:] if arguments is None else arguments, deferred=deferred)

        return main

    return decorate


@contextmanager
def user_errors() -> Iterator[None]:
    """Surround a whole program: a UserError becomes one line on stderr and exit status 2, Ctrl-C one line and 130.

    A training that was asked to stop has the signal's own status (SIGTERM 143, SIGUSR1 138). Of several processes the
    first that fails says why, and its traceback is the only one.
    """
    _replace_unencodable()
    try:
        yield
    except UserError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        if distributed.first_to_fail():
            print(f"error: {in_words(error)}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Interrupted as interruption:
        if distributed.is_main():
            print(interruption, file=sys.stderr)
        sys.exit(interruption.status)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and distributed.is_main() and not _in_a_run(error):
            sys.exit(BROKEN_PIPE)  # whoever read what is printed has enough (`| head`)
        if distributed.first_to_fail():
            raise
        print(f"process {distributed.rank()} ends, since another one failed", file=sys.stderr)
        sys.exit(FAILED)
    finally:
        _flush()


@dataclass
class _Outcome:
    """What became of a single run; Hydra would announce a failure with a line of its own."""

    error: UserError | None = None


def _run(task: Task, config_name: str, arguments: Sequence[str], *, deferred: bool) -> None:
    if not distributed.is_main():
        distributed.follow(task)
        return
    args = parse_arguments(arguments)
    args.overrides = [as_choice(typed_at_home(each)) for each in args.overrides]
    args.config_dir = config_dir(args.config_dir)
    _check_flags(args, config_name)
    primary = args.config_name or config_name
    folders = own_folders(primary, args.config_dir, args.overrides)
    if args.help:
        print(_help(task, config_name, folders))
        return
    args.overrides, aside = _set_aside(args.overrides, config_name, folders) if deferred else (args.overrides, [])
    outcome = _Outcome()
    job = distributed.everybodys_end(_job(task, aside, outcome))
    logging.raiseExceptions = False  # a log file on a full disk must not bury the one line that says so
    with distributed.leadership():
        register()
        try:
            run(job, args, config_name)
        except (HydraException, OmegaConfBaseException, OSError, ValueError) as error:
            if _in_a_run(error) or isinstance(error, BrokenPipeError):
                raise
            command = CommandLine(primary, args.overrides, folders, args.multirun)
            raise UserError(explain(error, command)) from error
        if outcome.error is not None:
            raise outcome.error


def _help(task: Task, config_name: str, folders: Sequence[Path]) -> str:
    """What the program's module says of it, by the name that it was called by, and what its groups offer."""
    called = Path(sys.argv[0])
    name = f"python {called.name}" if called.suffix == ".py" else f"detr {config_name}"
    document = inspect.cleandoc(sys.modules[task.__module__].__doc__ or "").replace(f"detr {config_name}", name)
    others = groups().keys() - _own_groups(config_name)
    everything = groups(*folders)
    offered = {group: options for group, options in everything.items() if group not in others}
    lines = [
        textwrap.fill(f"{group}: {', '.join(options)}", 100, initial_indent="  ", subsequent_indent="    ")
        for group, options in offered.items()
    ]
    return "\n".join([document, *(["", "Groups:", "", *lines] if lines else [])])


def _job(task: Task, aside: list[str], outcome: _Outcome) -> Callable[[DictConfig], None]:
    """The function that Hydra runs; it is named after the program's own, which names the run's folder and log."""

    @functools.wraps(task)
    def job(composed: DictConfig) -> None:
        with _where_started():
            in_place(composed)

    def in_place(composed: DictConfig) -> None:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            _replace_unencodable()  # in a process that a launcher started
            beside = HydraConfig.get().runtime.choices.get("hydra/launcher") != "basic"
            with labelled(job_label(Path(HydraConfig.get().sweep.dir), _directory()) if beside else None):
                _sweep_job(task, composed, aside)
            return
        # Hydra has just opened the log of a run; where anything else is, the folder is not a new one.
        logs = {Path(each.baseFilename) for each in logging.root.handlers if isinstance(each, logging.FileHandler)}
        new = set(_directory().iterdir()) == logs != set() and not any(log.stat().st_size for log in logs)
        try:
            distributed.led(task)(_config(composed, aside))
        except UserError as error:
            outcome.error = error
            if isinstance(error, OccupiedError):
                return
            if new and set(_directory().iterdir()) <= logs | {_directory() / LOCK}:
                shutil.rmtree(_directory())  # a run that is refused leaves nothing behind
            else:
                _log(error, everywhere=False, traceback=error.__cause__ is not None)
        except Exception as error:
            _log(error, everywhere=False, traceback=True)
            error.add_note(f"{RUN_FOLDER}{_directory()}")
            raise
        except (KeyboardInterrupt, Interrupted) as interruption:
            log.warning(str(interruption) or "interrupted")
            raise

    return job


@contextmanager
def _where_started() -> Iterator[None]:
    """Relative paths begin where the command was given, whatever Hydra makes the working directory of a job."""
    node = HydraConfig.get()
    if not node.job.chdir:
        yield
        return
    log.warning("hydra.job.chdir=true does nothing here: relative paths begin in %s, as without it", node.runtime.cwd)
    with contextlib.chdir(node.runtime.cwd):
        yield


def _config(composed: DictConfig, aside: list[str]) -> Config:
    """What crosses the door."""
    try:
        with uncollected():  # it imports what the parts are made of
            values, stored = checked(composed, HydraConfig.get())
    except MissingModuleError as error:
        before = noted(_resumed(composed)).get("code") or {}
        raise error.lay_in(before.get("places", {})) from error
    hydra: Any = HydraConfig.get()
    choices: Any = OmegaConf.to_container(hydra.runtime.choices)
    return Config(
        values=values,
        stored=stored,
        directory=_directory(),
        choices={
            group: option for group, option in choices.items() if offered(group) and not group.startswith("hydra/")
        },
        overrides=list(dict.fromkeys([*hydra.overrides.task, *aside])),
        aside=aside,
        folders=[str(each) for each in folders_in(hydra)],
        hydra={
            "config.yaml": OmegaConf.to_yaml(composed),
            "hydra.yaml": OmegaConf.to_yaml(OmegaConf.create({"hydra": OmegaConf.to_container(hydra)})),
            "overrides.yaml": OmegaConf.to_yaml(hydra.overrides.task),
        },
        sweep=job_facts(Path(hydra.sweep.dir), _directory()) if hydra.mode == RunMode.MULTIRUN else None,
    )


def _resumed(composed: DictConfig) -> Path:
    """The folder of the run that is to go on; where there is none, the folder of the new run."""
    resume = composed.get("resume")
    return _directory() if resume in (None, "auto") else Path(str(resume)).absolute().parent.parent


def _directory() -> Path:
    """The folder of the run that is under way."""
    return Path(HydraConfig.get().runtime.output_dir)


class JobFailedError(UserError):
    """Says that a job of a sweep failed; its log has the traceback."""


def _sweep_job(task: Task, composed: DictConfig, aside: list[str]) -> None:
    """One job of a sweep. What becomes of it is noted in its folder, where the sweeper looks for it.

    Raises:
        JobFailedError: instead of any other exception, which might hold on to the tensors of the job through its
            traceback, or not fit through the pipe to the sweeper's process.
    """
    folder = _directory()
    failure = None
    update_status(folder, status="running", error=None)
    if HydraConfig.get().runtime.choices.get("hydra/launcher") == "joblib":
        enter_worker(Path(HydraConfig.get().sweep.dir) / ".workers")
    try:
        distributed.led(task)(_config(composed, aside))
    except Exception as error:
        _log(error, everywhere=True, traceback=True)
        failure = in_words(error) if isinstance(error, UserError) else f"{type(error).__name__}: {in_words(error)}"
    except (KeyboardInterrupt, Interrupted) as interruption:
        log.warning(str(interruption) or "interrupted")
        raise
    finally:
        gc.collect()  # modules and their gradients are cycles, and the next job needs the memory
    update_status(folder, status="failed" if failure else "finished", error=failure)
    if failure:
        raise JobFailedError(failure)


def _log(error: Exception, *, everywhere: bool, traceback: bool) -> None:
    """Into the run's log; to the console only where nobody else shows it."""
    message = in_words(error) if isinstance(error, UserError) else f"failed: {type(error).__name__}"
    about = (type(error), error, error.__traceback__) if traceback else None
    for handler in logging.getLogger().handlers:
        in_file = isinstance(handler, logging.FileHandler)
        shown = about if in_file or not isinstance(error, UserError) else None
        if everywhere or in_file:
            handler.handle(log.makeRecord(log.name, logging.ERROR, __file__, 0, message, (), shown))


def _in_a_run(error: BaseException) -> bool:
    """Whether it is the task's own: not Hydra's, and of nothing that is printed beside."""
    return any(note.startswith(RUN_FOLDER) for note in getattr(error, "__notes__", []))


def _check_flags(arguments: argparse.Namespace, config_name: str) -> None:
    """Raise UserError about flags of Hydra's that make no sense here."""
    if arguments.package and not arguments.cfg:
        raise UserError(f"--package {arguments.package}: says which part of the config --cfg shows; add --cfg job")
    named = (arguments.config_name or config_name).removesuffix(".yaml")
    if named != config_name and (CONF / f"{named}.yaml").is_file():
        raise UserError(f"--config-name {named}: that is the config of `detr {named}`, not of `detr {config_name}`")


def _set_aside(overrides: Sequence[str], config_name: str, folders: Sequence[Path]) -> tuple[list[str], list[str]]:
    """Overrides of the primary config's own keys and groups, and all others. Paths are everybody's.

    Raises:
        UserError: a key that looks like a misspelled one of the primary config's.
    """
    primary = OmegaConf.load(CONF / f"{config_name}.yaml")
    own = {"hydra", *_own_groups(config_name), *map(str, primary)} - {"defaults"}
    kept, aside = [], []
    for override in overrides:
        root = re.split(r"[.=/@:]", override.lstrip("+~"), maxsplit=1)[0]
        near = closest(root, own, 1)
        if root not in own and near and root not in groups(*folders):
            raise UserError(f"{root}: there is no such key; did you mean {near[0]}?")
        if root in own:
            kept.append(override)
        if root not in own or root == "paths":
            aside.append(override)
    return kept, aside


def _own_groups(config_name: str) -> set[str]:
    """The groups that a primary config chooses from."""
    file = CONF / f"{config_name}.yaml"
    primary: Any = OmegaConf.load(file) if file.exists() else {}
    defaults = primary.get("defaults", [])
    return {str(group) for default in defaults if isinstance(default, DictConfig) for group in default}


def _replace_unencodable() -> None:
    """A terminal that cannot show a character (`LANG=C`, cp1252) gets another one, and the program goes on."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="replace")


def _flush() -> None:
    """What was printed last may have no reader any more (`| head`), which is no failure of the program's."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
