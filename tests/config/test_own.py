"""Own options and own code, from folders that the package knows nothing of."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from command import TINY, only_error, run
from omegaconf import OmegaConf

from detr.commands.options import answer
from detr.comparison.data import split_data
from detr.comparison.reading import read_run
from detr.config import compose, resolved
from detr.config.own import own_folders
from detr.errors import UserError
from detr.tracking.code import code_of
from detr.weights.checkpoint import load_checkpoint

FILES = {
    "code/mylab/__init__.py": "",
    "code/mylab/parts.py": (
        "from factor import FACTOR\n"
        "from detr.data.shapes.dataset import Shapes\n"
        "from detr.losses.terms import L1\n"
        "from detr.evaluation.coco import CocoEvaluator\n"
        "class MyShapes(Shapes):\n    pass\n"
        "class MyL1(L1):\n"
        "    def forward(self, matched):\n        return FACTOR * super().forward(matched)\n"
        "class MyEvaluator(CocoEvaluator):\n"
        "    def __init__(self, **arguments):\n"
        "        super().__init__(**arguments)\n"
        "        print('MY EVALUATOR')\n"
    ),
    "code/factor.py": "FACTOR = 2\n",
    "conf/dataset/mine.yaml": "# Shapes of my own.\ndefaults: [shapes]\n\n_target_: mylab.parts.MyShapes\n",
    "conf/loss/mine.yaml": "defaults: [detr]\n\nterms:\n  bbox:\n    _target_: mylab.parts.MyL1\n",
    "conf/evaluator/mine.yaml": "defaults: [coco]\n\n_target_: mylab.parts.MyEvaluator\n",
    "conf/experiment/mine.yaml": "# @package _global_\n# Mine.\ndefaults: [quickstart]\n\ntrainer:\n  patience: 7\n",
}
WORDS = [*TINY, "trainer.max_steps=2", "dataset=mine", "loss=mine", "experiment=mine"]


def written(folder: Path) -> Path:
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with own configs and own code, and a run of them."""
    folder = written(tmp_path_factory.mktemp("lab"))
    done = detr(folder, "train", "-cd", "conf", *WORDS, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    return folder


def detr(folder: Path, *arguments: str, path: str = "code") -> subprocess.CompletedProcess[str]:
    """A verb, started in this folder; `path`: where own code is looked for."""
    code = f"import sys; sys.path.insert(0, {str(folder / path)!r}); sys.argv = {['detr', *arguments]!r}\n"
    script = folder / "start.py"
    script.write_text(f"{code}from detr.__main__ import main\nmain()\n")
    return run(str(script), *arguments, cwd=folder)


def test_own_options_train_and_leave_their_code(lab: Path) -> None:
    record = json.loads((lab / "run" / "run.json").read_text())
    assert {group: record["choices"][group] for group in ("dataset", "loss", "experiment")} == dict.fromkeys(
        ("dataset", "loss", "experiment"), "mine"
    )
    code = record["code"]
    assert code["places"] == {"factor": str(lab / "code"), "mylab": str(lab / "code")}
    assert code["files"].keys() == {"factor.py", "mylab/__init__.py", "mylab/parts.py"}
    for name, digest in code["files"].items():
        content = (lab / "run" / "code" / name).read_bytes()
        assert content == (lab / "code" / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(code["files"].items()))
    assert code["digest"] == hashlib.sha256(lines.encode()).hexdigest()


def test_the_checkpoint_remembers_where_they_lay(lab: Path) -> None:
    recipe = load_checkpoint(lab / "run" / "checkpoints" / "last.pt").recipe
    assert recipe.folders == [str(lab / "conf")]
    assert recipe.modules["mylab"] == str(lab / "code")


@pytest.mark.parametrize(
    "words", [["-cd", "conf"], ["hydra.searchpath=[file://conf]"], []], ids=["config_dir", "searchpath", "remembered"]
)
def test_an_evaluation_takes_own_options(lab: Path, tmp_path: Path, words: list[str]) -> None:
    done = detr(
        *(lab, "evaluate", "checkpoint=run/checkpoints/last.pt", "evaluator=mine", *words),
        f"hydra.run.dir={tmp_path / 'eval'}",
    )
    assert done.returncode == 0, done.stderr
    assert "MY EVALUATOR" in done.stdout
    assert (tmp_path / "eval" / "code" / "mylab" / "parts.py").is_file()


@pytest.mark.parametrize(
    "words", [["-cd", "conf"], ["hydra.searchpath=[file://conf]"]], ids=["config_dir", "searchpath"]
)
@pytest.mark.parametrize("verb", ["train", "evaluate"])
def test_a_misspelt_own_option(lab: Path, verb: str, words: list[str]) -> None:
    further = ["checkpoint=run/checkpoints/last.pt"] if verb == "evaluate" else []
    assert "did you mean mine?" in only_error(detr(lab, verb, *words, *further, "dataset=mien"))


def test_a_misspelt_own_option_of_a_sweep(lab: Path) -> None:
    done = detr(lab, "train", "-m", "-cd", "conf", *TINY, "dataset=mine,mien", "hydra.sweep.dir=sweep")
    assert "dataset=mien: there is no such option; did you mean mine?" in only_error(done)


def test_a_comparison_names_the_place_of_code_that_is_missing(lab: Path) -> None:
    data = split_data(read_run(lab / "run"))
    with pytest.raises(UserError, match=f"there is no module mylab; it lay in {lab / 'code'}: add that folder"):
        data.read()


def test_an_option_whose_folder_is_gone(lab: Path, tmp_path: Path) -> None:
    checkpoint = torch.load(lab / "run" / "checkpoints" / "last.pt", weights_only=True)
    torch.save(checkpoint | {"folders": ["/nowhere/conf"]}, tmp_path / "gone.pt")
    message = only_error(detr(lab, "evaluate", f"checkpoint={tmp_path / 'gone.pt'}", "dataset=mine"))
    assert "dataset=mine: there is no such option" in message
    assert "/nowhere/conf, which is gone" in message
    assert "--config-dir" in message


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "checkpoint=run/checkpoints/last.pt"],
        ["train", "-cd", "conf", *WORDS, "hydra.run.dir=run", "resume=auto"],
        ["train", "-cd", "conf", *WORDS, "hydra.run.dir=new", "resume=run/checkpoints/last.pt"],
        ["repeat", "run"],
    ],
    ids=["evaluate", "auto", "resume", "repeat"],
)
def test_code_that_is_missing_is_named_with_its_place(lab: Path, arguments: list[str]) -> None:
    message = only_error(detr(lab, *arguments, path="."))
    assert f"_target_: there is no module mylab; it lay in {lab / 'code'}: add that folder to PYTHONPATH" in message
    assert not (lab / "new").exists()


def test_a_module_that_own_code_needs(lab: Path) -> None:
    (lab / "half").mkdir()
    shutil.copytree(lab / "code" / "mylab", lab / "half" / "mylab")
    message = only_error(detr(lab, "evaluate", "checkpoint=run/checkpoints/last.pt", path="half"))
    assert "_target_: mylab.parts." in message
    assert f"needs the module factor, which is not there; it lay in {lab / 'code'}: add" in message


@pytest.mark.slow
def test_a_run_of_own_options_is_repeated(lab: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lab"
    shutil.copytree(lab, folder)
    hydra = folder / "run" / ".hydra" / "hydra.yaml"
    hydra.write_text(hydra.read_text().replace(str(lab), str(folder)))
    done = detr(folder, "repeat", "run", "hydra.run.dir=again")
    assert done.returncode == 0, done.stderr
    assert "own code: the same" in done.stdout
    first, again = (json.loads((folder / name / "run.json").read_text()) for name in ("run", "again"))
    assert first["choices"] == again["choices"]
    assert first["code"]["digest"] == again["code"]["digest"]
    models = [load_checkpoint(folder / name / "checkpoints" / "last.pt").model for name in ("run", "again")]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    (folder / "code" / "factor.py").write_text("FACTOR = 3\n")
    shutil.rmtree(folder / "conf")
    changed = detr(folder, "repeat", "run", "hydra.run.dir=changed")
    assert changed.returncode == 0, changed.stderr
    assert "own code: factor.py has changed" in changed.stdout
    assert f"own options: file://{folder}/conf is gone" in changed.stdout


def test_options_lists_own_ones(lab: Path) -> None:
    done = detr(lab, "options", "-cd", "conf", "dataset")
    assert next(line for line in done.stdout.splitlines() if line.startswith("mine")).split(maxsplit=1)[1] == (
        "Shapes of my own."
    )
    assert "dataset.categories='contiguous'" in detr(lab, "options", "dataset=mine", "--config-dir", "conf").stdout
    assert "trainer.patience=7" in "\n".join(answer("experiment=mine", [lab / "conf"]))
    assert "--config-dir" in only_error(detr(lab, "options", "--confg-dir", "conf"))


@pytest.mark.parametrize("name", ["backbone/resnet50.yaml", "train.yaml", "hydra/job_logging/default.yaml"])
@pytest.mark.parametrize("flag", ["config_dir", "searchpath"])
def test_an_own_option_may_not_have_a_shipped_ones_name(tmp_path: Path, name: str, flag: str) -> None:
    own = tmp_path / "conf" / name
    own.parent.mkdir(parents=True)
    own.write_text("mine: 1\n")
    words = ["-cd", "conf"] if flag == "config_dir" else [f"hydra.searchpath=[{tmp_path}/conf]"]
    message = only_error(run("-m", "detr", "train", *words, "--cfg", "job", cwd=tmp_path))
    assert str(own) in message
    assert f"conf/{name}, which hides it; rename it" in message


def test_a_copy_of_a_shipped_option_hides_nothing(tmp_path: Path) -> None:
    from detr.config.compose import CONF

    shutil.copytree(CONF, tmp_path / "conf")
    assert own_folders("train", str(tmp_path / "conf"), []) == [tmp_path / "conf"]


def test_own_options_of_one_name(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "loss").mkdir(parents=True)
        (tmp_path / name / "loss" / "mine.yaml").write_text(f"weight: {name}\n")
    with pytest.raises(UserError, match=f"{tmp_path}/b/loss/mine.yaml .* {tmp_path}/a/loss/mine.yaml"):
        own_folders("train", str(tmp_path / "a"), [f"hydra.searchpath=[file://{tmp_path / 'b'}]"])


@pytest.mark.parametrize("place", ["file:///nowhere", "/nowhere", "pkg://nowhere.conf"])
def test_a_place_that_does_not_exist(place: str) -> None:
    with pytest.raises(UserError, match=f"hydra.searchpath: {place}: there is no such folder or package"):
        own_folders("train", None, [f"hydra.searchpath=[{place}]"])


def test_a_package_and_a_primary_config_name_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "labpackage" / "conf").mkdir(parents=True)
    (tmp_path / "study.yaml").write_text("defaults: [train]\nhydra: {searchpath: ['pkg://labpackage.conf']}\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = own_folders("study", str(tmp_path), [])
    assert found == [tmp_path, tmp_path / "labpackage" / "conf"]


def test_places_with_any_character(tmp_path: Path) -> None:
    folder = tmp_path / "it's, [mine]" / "conf"
    (folder / "seed").mkdir(parents=True)
    (folder / "seed" / "seven.yaml").write_text("# @package _global_\nseed: 7\n")
    assert compose(["+seed=seven"], folders=[folder])["seed"] == 7


def test_packages_are_named_and_own_code_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "manyfiles"
    (package / ".venv").mkdir(parents=True)
    (package / ".venv" / "hidden.py").touch()
    for number in range(203):
        (package / f"file{number:03d}.py").write_text(f"VALUE = {number}\n")
    (package / "file202.py").write_text("#" * 3_000_000)
    monkeypatch.syspath_prepend(tmp_path)
    __import__("manyfiles.file150")
    code = code_of({"a": {"_target_": "torch.optim.SGD"}, "b": [{"_target_": "manyfiles.file150.VALUE"}], "c": 1})
    assert code.packages == {"torch": importlib.metadata.version("torch")}
    assert next(iter(code.files)) == "manyfiles/file150.py"
    assert (len(code.files), code.left_out) == (200, 3)
    assert "manyfiles/.venv/hidden.py" not in code.files
    assert code_of({"a": {"_target_": "detr.losses.terms.L1"}, "b": {"_target_": "builtins.dict"}}).to_dict() is None


def test_a_run_that_goes_on_with_other_code_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "changing.py").write_text("A = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    values = {"_target_": "changing.A"}
    run_folder = tmp_path / "run"
    for content in ("A = 1\n", "A = 1\n", "A = 2\n"):
        (tmp_path / "changing.py").write_text(content)
        code = code_of(values)
        code.keep(run_folder)
        (run_folder / "run.json").write_text(json.dumps({"code": code.to_dict()}))
    assert [record.message for record in caplog.records] == [
        "own code is not what this run has had so far: changing.py has changed"
    ]
    assert (run_folder / "code.1" / "changing.py").read_text() == "A = 1\n"
    assert (run_folder / "code" / "changing.py").read_text() == "A = 2\n"


def test_a_key_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"^seed: the config lacks this key, which a run needs$"):
        resolved(OmegaConf.create({"name": "own"}))["seed"]
