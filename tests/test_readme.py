"""The commands of README and docs: each composes as it stands there. test_training.py trains for real."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from command import ROOT, run
from hydra.core.override_parser.overrides_parser import OverridesParser

from detr.__main__ import verbs
from detr.commands import compare, monitor, wandb_report
from detr.config import check, compose
from detr.sweeping.search import as_overrides
from detr.sweeping.space import corners, space_of

README = (ROOT / "README.md").read_text()
DOCUMENTS = README + "".join(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))
BLOCKS = re.findall(r"^```bash\n(.*?)^```", DOCUMENTS.replace("\\\n", " "), re.MULTILINE | re.DOTALL)
COMMANDS = [line.partition("#")[0].strip() for block in BLOCKS for line in block.splitlines()]
TRAININGS = [command for command in COMMANDS if re.search(r"\b(python|torchrun .*) train\.py", command)]


def test_there_are_commands() -> None:
    assert len(TRAININGS) >= 8
    assert any(command.startswith("detr compare") for command in COMMANDS)
    assert {"make demo", "make test"} <= set(COMMANDS)


def quick_in_readme(commands: list[str]) -> list[Any]:
    """Those of the README for every run, those of the docs for the slow tests."""
    return [each if each in README else pytest.param(each, marks=pytest.mark.slow) for each in commands]


@pytest.mark.parametrize("command", quick_in_readme(TRAININGS))
def test_a_training_command_composes(command: str) -> None:
    words = shlex.split(command.partition("train.py")[2])
    flags = [word for word in words if word.startswith("-")]
    overrides = [word for word in words if "=" in word]
    if flags and set(flags) != {"-m"}:  # whose meaning is Hydra's
        overrides = [first_value(word) for word in overrides] if {"-m", "-cn"} & set(flags) else overrides
        rest = [word for word in words if "=" not in word and word not in ("-m", "--cfg", "job")]
        done = run("train.py", *rest, *overrides, "--cfg", "job")
        assert done.returncode == 0, done.stderr
    else:
        assert len(overrides) == len(words) - len(flags)
        check(compose(list(map(first_value, overrides)) if flags else overrides))


def first_value(word: str) -> str:
    """An override that is swept over, with the first of its values."""
    override = OverridesParser.create().parse_override(word)
    if not override.is_sweep_override():
        return word
    key = override.get_key_element()
    return as_overrides(next(corners({key: space_of(override)})))[0]


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {match for command in COMMANDS for match in re.findall(r"^make ([\w-]+)", command)} <= targets
    assert set(re.findall(r"`make ([\w-]+)`", README)) <= targets


def test_linked_files_exist() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("detr compare")])
def test_a_comparison_is_understood(command: str) -> None:
    assert compare.parser().parse_args(shlex.split(command)[2:]).runs


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("detr wandb-report")])
def test_a_report_is_understood(command: str) -> None:
    assert wandb_report.parser().parse_args(shlex.split(command)[2:]).sweep


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("detr monitor")])
def test_a_monitor_is_understood(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs/sweep/DATE").mkdir(parents=True)
    folder, port, _ = monitor.parse(shlex.split(command)[2:])
    assert folder.is_dir()
    assert port > 1024


@pytest.mark.parametrize(
    "command",
    quick_in_readme(
        [
            each
            for each in COMMANDS
            if re.match(r"python evaluate\.py|detr (export|evaluate|convert|predict|show|benchmark)", each)
        ]
    ),
)
def test_an_evaluation_or_export_composes(command: str) -> None:
    words = shlex.split(command)
    script = ["evaluate.py"] if words[0] == "python" else ["-m", "detr", words[1]]
    done = run(*script, *words[2:], "--cfg", "job")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("detr options")])
def test_options_are_listed(command: str) -> None:
    done = run("-m", *shlex.split(command))
    assert done.returncode == 0, done.stderr
    assert done.stdout


BENCHMARKS = [command for command in COMMANDS if "benchmarks/" in command]


@pytest.mark.parametrize("command", quick_in_readme(BENCHMARKS))
def test_a_benchmark_takes_its_words(command: str) -> None:
    """What they find takes minutes: tests/test_figures.py and test_scaling.py run them as far as a test can."""
    words = shlex.split(command.partition("benchmarks/")[2])
    done = run(f"benchmarks/{words[0]}", *words[1:], "--help")
    assert done.returncode == 0, done.stderr
    assert {word for word in words if word.startswith("--")} <= set(re.findall(r"--[\w-]+", done.stdout))


def test_every_verb_in_the_documents_exists() -> None:
    used = {match for command in COMMANDS for match in re.findall(r"^detr ([\w-]+)", command)}
    assert used <= set(verbs())
    assert {"repeat", "wandb-report"} <= used
