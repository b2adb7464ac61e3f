"""The entry points as users meet them: real processes, their exit status and what they print.

Those in `cold` interpreters show what a start needs; the others are forked from one that is warm.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import ROOT, only_error, run, run_cold


@pytest.fixture(autouse=True)
def no_full_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have asked for tracebacks."""
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("optimzer.lr=1", "did you mean optimizer.lr?"),
        ("trainer.max_epoch=3", "did you mean trainer.max_epochs?"),
        ("matcher.cost_gious=1", "did you mean matcher.cost_giou"),
        ("batch_size=4", "did you mean dataloader.batch_size?"),
        ("backbone=resnet52", "did you mean resnet50 or"),
        ("experiment=quikstart", "did you mean quickstart?"),
        ("experiment=dino", "did you mean dino_r50?"),
        (
            "loss.terms.giou=null",
            "loss.terms.giou: expected a part, with _target_, got null; ~loss.terms.giou takes it",
        ),
        ("-p optimizer", "add --cfg job"),
        ("-cn evaluate", "--config-name evaluate: that is the config of `detr evaluate`, not of `detr train`"),
        ("loss=focl", "did you mean focal?"),
        ("bakbone=resnet50", "did you mean backbone?"),
        ("-cn trian", "did you mean train?"),
        ("--cgf job", "did you mean --cfg?"),
        ("trainer.max_epochs=[", "trainer.max_epochs=["),
    ],
)
def test_typo_in_one_line(arguments: str, expected: str) -> None:
    assert expected in only_error(run("train.py", *arguments.split()))


@pytest.mark.parametrize(
    ("command", "begins", "words"),
    [
        (
            "train.py",
            "Train a detector",
            ["python train.py -m loss=detr,focal", "trainer.max_steps=", "detr options"],
        ),
        ("train.py -cd sweeps", "Train a detector", ["  ablation: decoder_3"]),
        (
            "evaluate.py",
            "Evaluate a checkpoint",
            ["python evaluate.py checkpoint=", "split=val", "logger: none"],
        ),
        ("-m detr train", "Train a detector", ["detr train -m loss=detr,focal", "  matcher: hungarian"]),
        ("-m detr export", "Write a detector", ["format=official"]),
        ("-m detr compare", "usage: detr compare", ["detr compare outputs/sweep/DATE", "--split", "ENTITY/PROJECT/ID"]),
        ("-m detr options", "List what can be", ["detr options transformer=deformable"]),
        ("-m detr repeat", "Train a run again", ["detr repeat outputs/train/DATE"]),
    ],
)
def test_help(command: str, begins: str, words: list[str], tmp_path: Path) -> None:
    """Examples and the meaning of arguments, before everything that could be chosen."""
    arguments = [str(ROOT / each) if each.endswith(".py") else each for each in command.split()]
    done = run(*arguments, "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(begins)
    for each in words:
        assert each in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("python train.py loss=", {"loss=detr", "loss=focal", "loss=varifocal"}),
        ("python train.py transformer.dropo", {"transformer.dropout="}),
    ],
)
def test_completion(line: str, found: set[str]) -> None:
    """What the shell is answered on a Tab."""
    done = run("train.py", "-sc", "query=bash", variables={"COMP_LINE": line, "COMP_POINT": str(len(line))})
    assert found <= set(done.stdout.split())


def test_a_typo_from_cold() -> None:
    assert "did you mean optimizer.lr?" in only_error(run_cold("train.py", "optimzer.lr=1"))


def test_evaluate_knows_its_own_keys() -> None:
    assert "did you mean checkpoint?" in only_error(run("evaluate.py", "chekpoint=best.pt"))


def test_showing_the_config_imports_no_torch() -> None:
    script = (
        "import runpy, sys\n"
        "sys.argv = ['train.py', '--cfg', 'job']\n"
        "runpy.run_path('train.py', run_name='__main__')\n"
        "assert 'torch' not in sys.modules and 'pydantic' not in sys.modules"
    )
    result = run_cold("-c", script)
    assert result.returncode == 0, result.stderr
    assert "seed: 42" in result.stdout


@pytest.mark.parametrize("arguments", ["train.py -sc install=bash", "-m detr options"])
def test_output_that_nobody_reads(arguments: str) -> None:
    """`… | head`: the status of a program that SIGPIPE ended, and no word."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as nobody:
        program = [sys.executable, "-u", *arguments.split()]
        done = subprocess.run(program, cwd=ROOT, stdout=nobody, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (141, "")


def test_output_folder_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = only_error(run("train.py", f"paths.output_root={tmp_path}/file/outputs"))
    assert "paths.output_root" in message
    assert str(tmp_path / "file") in message


def test_full_disk() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    result = run("train.py", "paths.output_root=/dev/full")
    assert "/dev/full" in only_error(result)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A script with an entry point of its own and a small primary config without constructors."""
    conf = tmp_path / "conf"
    conf.mkdir()
    (conf / "small.yaml").write_text(
        "seed: 1\nname: ok\npaths: {output_root: out}\n"
        "hydra:\n  run: {dir: '${paths.output_root}/run'}\n  sweep: {dir: '${paths.output_root}', subdir: '${name}'}\n"
    )
    path = tmp_path / "script.py"
    path.write_text(
        "import logging, time\n"
        "from detr.entry import entry_point\n"
        "from detr.errors import UserError\n"
        "@entry_point('small')\n"
        "def main(config):\n"
        "    print('started', config.directory, config.choices, config.overrides, flush=True)\n"
        "    name = config.values['name']\n"
        "    if name == 'mistake':\n"
        "        raise UserError('the file\\nis missing')\n"
        "    if name == 'bug':\n"
        "        raise ValueError('broken')\n"
        "    if name == 'sleep':\n"
        "        time.sleep(60)\n"
        "main()\n"
    )
    return path


def test_users_mistake_inside_a_run(script: Path) -> None:
    result = run(str(script), "-cd", "conf", "name=mistake", cwd=script.parent)
    assert only_error(result) == "error: the file is missing"
    assert "the file is missing" in (script.parent / "out/run/script.log").read_text()
    assert "the file is missing" not in result.stdout


def test_value_of_the_wrong_type(script: Path) -> None:
    message = only_error(run(str(script), "-cd", "conf", "seed=abc", cwd=script.parent))
    assert message == "error: seed: expected an integer, got 'abc'"


def test_users_own_full_error(script: Path) -> None:
    result = run(str(script), "-cd", "conf", "name=mistake", cwd=script.parent, variables={"HYDRA_FULL_ERROR": "1"})
    assert result.returncode == 1
    assert "Traceback" in result.stderr


def test_bug_keeps_its_traceback_also_in_the_log(script: Path) -> None:
    result = run(str(script), "-cd", "conf", "name=bug", cwd=script.parent)
    assert result.returncode == 1
    assert "ValueError: broken" in result.stderr
    log = (script.parent / "out/run/script.log").read_text()
    assert "Traceback" in log
    assert "ValueError: broken" in log


def test_multirun_goes_on_and_logs_each_failure(script: Path) -> None:
    result = run(str(script), "-cd", "conf", "-m", "name=mistake,bug,ok", cwd=script.parent)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("error: 2 of 3 jobs failed (#0, #1)")
    assert result.stdout.count("started") == 3
    assert "#0 name=mistake: the file is missing; log: out/mistake/script.log" in result.stdout
    assert "#1 name=bug: ValueError: broken; log: out/bug/script.log" in result.stdout
    assert "the file is missing" in (script.parent / "out/mistake/script.log").read_text()
    assert "ValueError: broken" in (script.parent / "out/bug/script.log").read_text()


def test_interrupt(script: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, str(script), "-cd", "conf", "name=sleep"],
        cwd=script.parent,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored below `make test &`
    )
    assert process.stdout is not None
    assert "started" in process.stdout.readline()
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stderr.splitlines() == ["interrupted"]


def test_facts_of_the_run(script: Path) -> None:
    result = run(str(script), "-cd", "conf", "name=other", cwd=script.parent)
    assert result.returncode == 0, result.stderr
    assert f"started {script.parent}/out/run {{}} ['name=other']" in result.stdout


def test_overrides_that_belong_to_the_checkpoint_are_kept_back(tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(
        "from detr.entry import entry_point\n"
        "@entry_point('evaluate', deferred=True)\n"
        "def main(config):\n"
        "    print('GOT', config.values['checkpoint'], config.values['split'], config.aside)\n"
        "main()\n"
    )
    arguments = ["dataset.root=/y", "checkpoint=a.pt", "+x=1", "split=test", "paths.output_root=out", "dataset=custom"]
    result = run(str(path), *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "GOT a.pt test ['dataset.root=/y', '+x=1', 'paths.output_root=out', 'dataset=custom']" in result.stdout
