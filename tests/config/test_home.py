"""`~` at the start of a path is the home folder, however the path is given."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import only_error, run
from hydra.core.override_parser.overrides_parser import OverridesParser

from detr.config import check, compose
from detr.config.compose import load
from detr.config.home import typed_at_home
from detr.config.own import config_dir


@pytest.fixture(params=["home", "home of me", "it's = [mine]"])
def home(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / request.param
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.mark.parametrize(
    ("value", "paths"),
    [
        ("~/x", "{}/x"),
        ("~", "{}"),
        ("[~/a,~/b]", ["{}/a", "{}/b"]),
        ("{images: ~/a, annotations: '~/b c'}", {"images": "{}/a", "annotations": "{}/b c"}),
        ('"~/a b"', "{}/a b"),
        ("'x ~/y'", "x ~/y"),
        ("~nobody.here/x", None),
        ("plain", "plain"),
    ],
)
def test_what_is_typed(value: str, paths: object, home: Path) -> None:
    typed = typed_at_home(f"dataset.root={value}")
    if paths is None:
        assert typed == f"dataset.root={value}"
        return
    expected = _filled(paths, str(home))
    assert OverridesParser.create().parse_override(typed).value() == expected


def _filled(value: object, home: str) -> object:
    if isinstance(value, dict):
        return {key: _filled(each, home) for key, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, home) for each in value]
    return str(value).replace("{}", home)


@pytest.mark.parametrize("text", ["~dataset.val", "logger.notes=~/x", "name='~/x'", "a=/x/y"])
def test_what_is_no_path_stays(text: str, home: Path) -> None:
    assert typed_at_home(text) == text


def test_a_sweep_over_paths(home: Path) -> None:
    override = OverridesParser.create().parse_override(typed_at_home("dataset.root=~/a,~/b,/c"))
    texts = [getattr(each, "text", each) for each in override.value().list]
    assert texts == [f"{home}/a", f"{home}/b", "/c"]


@pytest.mark.parametrize("key", ["dataset.root", "init_from", "resume", "paths.output_root", "dataset.val.images"])
def test_what_a_config_says(key: str, home: Path) -> None:
    """In YAML, or in quotes."""
    values, stored = check(compose([f"{key}='~/x'", "dataset=custom", "logger.notes='~/x'"]))
    for tree in (values, stored):
        node: object = tree
        for part in key.split("."):
            node = node[part]  # type: ignore[index]
        assert node == f"{home}/x"
    assert values["logger"]["notes"] == "~/x"
    if key == "dataset.root":
        assert values["dataset"]["train"]["images"] == f"{home}/x/images"


def test_the_folder_of_a_sweep_that_a_config_places(home: Path) -> None:
    """Hydra makes it, before anything of ours sees the config."""
    config = load("train", ["paths.output_root='~/x'"])
    assert str(config.hydra.sweep.dir).startswith(f"{home}/x/sweep/")
    assert str(load("predict", ["paths.output_root='~/x'", "checkpoint=a", "source=b"]).output).startswith(f"{home}/x/")


def test_a_folder_of_configs(home: Path) -> None:
    (home / "conf").mkdir()
    assert config_dir("~/conf") == f"{home}/conf"


@pytest.mark.parametrize("command", [("train",), ("evaluate", "checkpoint=~/none.pt"), ("check",)])
def test_on_the_command_line(command: tuple[str, ...], tmp_path: Path) -> None:
    verb, *more = command
    words = [*more, "dataset=custom", "dataset.root=~/data", *(["logger=none"] if verb == "train" else [])]
    done = run("-m", "detr", verb, *words, f"hydra.run.dir={tmp_path}/run", variables={"HOME": str(tmp_path)})
    said = only_error(done) if verb != "check" else done.stdout
    assert str(tmp_path / ("none.pt" if more else "data")) in said
    assert "~" not in said


@pytest.mark.slow
def test_a_sweep_of_a_file(tmp_path: Path) -> None:
    """Its folder, and paths among its values."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "mine.yaml").write_text(
        "defaults: [train, override /dataset: custom, _self_]\n"
        "paths: {output_root: ~/out}\n"
        "hydra: {mode: MULTIRUN, sweeper: {params: {dataset.root: '~/a,~/b'}}}\n"
    )
    words = ["-cd", "conf", "-cn", "mine", "logger=none"]
    done = run("-m", "detr", "train", *words, cwd=tmp_path, variables={"HOME": str(tmp_path)})
    assert f"{tmp_path}/a" in done.stdout + done.stderr
    assert "~" not in done.stdout + done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["conf", "out"]
