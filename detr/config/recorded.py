"""The config that a run left in its folder, read back without composing anything."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from detr.errors import UserError

HYDRA = ".hydra"
CONFIG = f"{HYDRA}/config.yaml"


@dataclass(frozen=True)
class Recorded:
    """Holds what Hydra wrote into a run's `.hydra/`."""

    config: dict[str, Any]  # interpolations as they stand: a value that others refer to differs in one place only
    overrides: list[str]  # of the command line
    source: Path  # the config's file
    cwd: Path  # where the command was given; relative paths of the config start there
    places: list[str] = field(default_factory=list)  # of the user's own configs, as `hydra.searchpath` has them

    def section(self, key: str) -> Any:
        """Return a part of the config as plain containers, interpolations resolved.

        Raises:
            UserError: there is no such part, or an interpolation leads nowhere.
        """
        try:
            found = OmegaConf.select(OmegaConf.create(self.config), key)
            return OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found
        except OmegaConfBaseException as error:
            raise UserError(f"{self.source}: {key}: {str(error).splitlines()[0]}") from error


def recorded(folder: Path, config: Path | None = None) -> Recorded:
    """Read `.hydra/` of a run's folder.

    Args:
        folder: of the run.
        config: the file with its config; None: `.hydra/config.yaml`.

    Raises:
        UserError: a file is missing or no YAML.
    """
    source = config or folder / CONFIG
    content = _read(source)
    if not isinstance(content, DictConfig):
        raise UserError(f"{source}: there is no config of a run")
    container: Any = OmegaConf.to_container(content, resolve=False)
    overrides, file = folder / HYDRA / "overrides.yaml", folder / HYDRA / "hydra.yaml"
    hydra = _read(file) if file.exists() else None
    return Recorded(
        config=container,
        overrides=[str(each) for each in _read(overrides)] if overrides.exists() else [],
        source=source,
        cwd=Path(_cwd(hydra) if hydra is not None else "."),
        places=own_places(OmegaConf.select(hydra, "hydra")) if hydra is not None else [],
    )


def own_places(hydra: Any) -> list[str]:
    """Return where a config was looked for beside conf/, as `hydra.searchpath` has it; `hydra`: Hydra's own node."""
    sources = OmegaConf.select(hydra, "runtime.config_sources") or []
    given = [each for each in sources if each.provider == "command-line" or each.provider.startswith("hydra.")]
    return [f"{each.schema}://{each.path}" for each in given]


def noted(folder: Path) -> dict[str, Any]:
    """Return run.json of a run; what cannot be read is as good as missing, since nothing but notes depends on it."""
    try:
        facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _cwd(hydra: Any) -> str:
    return str(OmegaConf.select(hydra, "hydra.runtime.cwd") or ".")


def _read(path: Path) -> Any:
    try:
        return OmegaConf.load(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; is this the folder of a run?") from None
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
