"""Train a run again: its config, its seed, as many steps. With the same code and data the weights are the same.

detr repeat outputs/train/DATE
detr repeat outputs/train/DATE logger=none     # with overrides of your own
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from detr import distributed
from detr.commands.train import main as train
from detr.config.build import MissingModuleError
from detr.config.compose import groups, load
from detr.config.own import SEARCHPATH, located, own_folders
from detr.config.recorded import Recorded, recorded
from detr.entry import user_errors
from detr.errors import UserError
from detr.texts import in_hydra, visible
from detr.tracking.rows import METRICS, read_rows

AFRESH = {"resume", "resume_changed"}  # what a repeated run does not take over


def main(arguments: Sequence[str] | None = None) -> None:
    """Say what has changed since the run, and train again in a new folder."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if any(each in ("-h", "--help") for each in given):
        print(__doc__)
        return
    overrides: list[str] = []
    with user_errors():
        if not given:
            raise UserError("give the folder of a run: detr repeat RUN [OVERRIDES]")
        if distributed.is_main():
            folder = Path(given[0]).absolute()
            run, record = recorded(folder), read_record(folder)
            if run.cwd.is_dir() and run.cwd != Path.cwd():
                print(f"in {run.cwd}, where the run was started", flush=True)
                os.chdir(run.cwd)
            for place in run.places:
                if not there(place):
                    print(f"own options: {place} is gone; what the run recorded of them is taken", flush=True)
            overrides = [*overrides_of(run, record), *given[1:]]
            try:
                for line in news(folder, record, overrides):
                    print(visible(line), flush=True)
            except MissingModuleError as error:
                raise error.lay_in((record.get("code") or {}).get("places", {})) from error
    train(overrides)


def read_record(folder: Path) -> dict[str, Any]:
    """Return run.json of a training.

    Raises:
        UserError: there is none, or it is another's.
    """
    path = folder / "run.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give the folder of a run") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    if not isinstance(record, dict) or not {"choices", "steps", "data"} <= record.keys():
        raise UserError(f"{path} is not the record of a training")
    return record


def overrides_of(run: Recorded, record: dict[str, Any]) -> list[str]:
    """Return what makes today's conf/ the config of a run; a limit of time is replaced by the steps it gave."""
    folders = own_folders("train", None, searched(run))
    options, shipped = groups(*folders), groups()
    choices = [
        f"{'' if group in shipped else '+'}{group}={option}"
        for group, option in record["choices"].items()
        if option in options.get(group, [])
    ]
    composed: Any = OmegaConf.to_container(load("train", choices, folders), resolve=False)
    del composed["hydra"]
    ours, theirs = dict(_values(composed)), dict(_values(run.config))
    gone = [f"~{_key(path)}" for path in ours if path not in theirs and path[0] not in AFRESH]
    changed = [
        f"++{_key(path)}={in_hydra(value, interpolated=True)}"
        for path, value in theirs.items()
        if path[0] not in AFRESH and (path not in ours or ours[path] != value)
    ]
    trainer = run.section("trainer")
    limited = trainer["max_minutes"] is not None and trainer["max_steps"] is None
    return [*searched(run), *choices, *gone, *changed, *([f"trainer.max_steps={record['steps']}"] if limited else [])]


def searched(run: Recorded) -> list[str]:
    """Return the override that finds a run's own options again, as far as they are there; empty where it had none."""
    places = [place for place in run.places if there(place)]
    return [f"{SEARCHPATH}={in_hydra(places, interpolated=True)}"] if places else []


def there(place: str) -> bool:
    """Return whether there are configs at a place of `hydra.searchpath`."""
    return any(folder.is_dir() for folder in located(place))


def news(folder: Path, record: dict[str, Any], overrides: Sequence[str]) -> Iterator[str]:
    """Yield a line each on what will be done, and whether code, machine and data are still what they were."""
    from detr.assembly import training_data  # with torch, for which a mistake need not wait
    from detr.config.compose import without_hydra
    from detr.config.exchange import checked
    from detr.environment import hardware, revision
    from detr.tracking.code import code_of

    loaded = load("train", overrides)
    values, _ = checked(without_hydra(loaded), loaded.hydra)
    steps = values["trainer"]["max_steps"] or record["steps"]
    yield f"repeating {steps} steps with seed {values['seed']}"
    rows = read_rows(folder / METRICS)
    reached = rows[-1]["step"] if rows else 0
    if reached < record["steps"]:
        yield f"the run itself ended after step {reached:g} of {record['steps']}"
    before, now = record.get("git") or "unknown", revision() or "unknown"
    same = before == now != "unknown"
    doubt = ", with changes that no commit has" if before.endswith("-dirty") else ""
    yield f"code: {'the same' if same else f'it was {before}, it is {now}'}{doubt}"
    noted = record.get("code")
    own = code_of(values, (noted or {}).get("places", ()))
    if noted or own.places:
        yield f"own code: {', '.join(own.changes(noted or {})) or 'the same'}"
    machine = {name: (record.get("hardware", {}).get(name), value) for name, value in hardware().items()}
    others = [f"{name} was {old}, is {new}" for name, (old, new) in machine.items() if old != new]
    yield f"machine: {'; '.join(others) or 'the same'}"
    processes = record.get("processes", 1)
    if processes != distributed.world_size():
        yield f"processes: there were {processes}, there are {distributed.world_size()}"
    for name, images in zip(("train", "val"), training_data(values, values["trainer"]["overfit_batches"]), strict=True):
        if images is None:
            continue
        same = asdict(images.fingerprint()) == record["data"][name]
        yield f"data: {name} is {'the same' if same else 'not the same'}, {len(images)} images"


def _values(tree: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Path and value of everything but mappings, and of empty ones."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _values(value, (*path, str(key)))
        else:
            yield (*path, str(key)), value


def _key(path: tuple[str, ...]) -> str:
    for name in path:
        if not re.fullmatch(r"[\w$-]+", name):
            raise UserError(f"{'.'.join(path)} differs from conf/, and the command line has no way to set such a key")
    return ".".join(path)
