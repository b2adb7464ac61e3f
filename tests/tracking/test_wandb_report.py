"""`detr wandb-report`: what it would upload, and what it says where it cannot."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from run_folders import write_run

from detr.commands.wandb_report import parser, report
from detr.errors import UserError
from detr.tracking import wandb_report
from detr.tracking.wandb_report import build_report, has_account, read_study

pytestmark = pytest.mark.usefixtures("wandb_at_home")

LOGGER = {"_target_": "detr.tracking.wandb_logger.WandbLogger", "project": None, "entity": None, "group": None}


def write_sweep(folder: Path, logger: dict[str, Any] | None = None) -> Path:
    for number in range(4):
        facts = {
            "choices": {"experiment": "quickstart"},
            "overrides": [],
            "sweep": {"name": "train losses", "differs": [f"loss={number // 2}", f"seed={number % 2}"]},
        }
        write_run(
            folder / str(number),
            [0.1, 0.2],
            seed=number % 2,
            config={"logger": logger or LOGGER},
            metrics={"AP/cat": 0.1, "AP/dog": 0.2},
            facts=facts,
        )
    (folder / "0" / "evaluations").mkdir()
    (folder / "0" / "evaluations" / "test.json").write_text("{}")
    return folder


def test_a_study_is_read_from_the_folders(tmp_path: Path) -> None:
    study = read_study(write_sweep(tmp_path / "losses"))
    assert (study.name, study.project, study.entity, study.runs) == ("losses", "detr", "", 4)
    assert (study.groups, study.splits) == (["train losses"], ["test"])
    assert study.headlines == ["AP", "AP50"]
    assert study.classes == ["AP/cat", "AP/dog"]
    named = write_sweep(tmp_path / "named", LOGGER | {"project": "p", "entity": "us", "group": "mine"})
    study = read_study(named)
    assert (study.project, study.entity, study.groups) == ("p", "us", ["mine"])


def panels(content: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    for block in content["spec"]["blocks"]:
        for panel in block.get("metadata", {}).get("panelBankSectionConfig", {}).get("panels", []):
            yield panel["viewType"], panel["config"]


def test_without_an_account_it_is_written_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_sweep(tmp_path / "losses")
    report(parser().parse_args([str(folder)]))
    said = capsys.readouterr().out
    assert said.startswith("not uploaded (there is no W&B account here: run `wandb login`")
    assert str(folder / "wandb_report.json") in said
    content = json.loads((folder / "wandb_report.json").read_text())
    assert content["project"] == {"name": "detr", "entityName": ""}
    shown = list(panels(content))
    bars = [config for kind, config in shown if kind == "Bar Chart"]
    assert [config["metrics"] for config in bars] == [
        ["best/AP"],
        ["best/AP50"],
        ["test/AP"],
        ["best/AP/cat"],
        ["best/AP/dog"],
    ]
    lines = [config for kind, config in shown if kind == "Run History Line Plot"]
    assert [(config["metrics"], config["xAxis"]) for config in lines][:2] == [
        (["val/AP"], "epoch"),
        (["val/AP50"], "epoch"),
    ]
    for config in [*bars, *lines]:
        assert (config["groupBy"], config["groupAgg"]) == ("setting.value", "mean")
    media = [config["mediaKeys"] for kind, config in shown if kind == "Media Browser"]
    assert media == [["images/worst"], ["images/predictions"], ["images/training"]]
    sets = [block["metadata"]["runSets"][0] for block in content["spec"]["blocks"] if block["type"] == "panel-grid"]
    for runs in sets:
        wanted = {each["key"]["name"]: each["value"] for each in runs["filters"]["filters"]}
        assert wanted == {"group": ["train losses"], "jobType": "train"}
    assert [bool(runs["grouping"]) for runs in sets] == [True, True, True, False]


def test_a_file_can_be_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    report(parser().parse_args([str(write_sweep(tmp_path / "losses")), "--json", str(tmp_path / "r.json")]))
    assert json.loads((tmp_path / "r.json").read_text())["displayName"] == "losses by setting"


def test_without_a_network_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://localhost:9")
    study = read_study(write_sweep(tmp_path / "losses"))
    built = build_report(study)

    def unreachable(*arguments: Any) -> None:
        raise ConnectionError("connection\nrefused")

    monkeypatch.setattr(type(built), "save", unreachable)
    built.entity = "us"
    with pytest.raises(UserError, match="W&B does not take the report: connection refused"):
        wandb_report.upload(built)


@pytest.mark.parametrize(
    ("variables", "netrc", "expected"),
    [
        ({}, "", False),
        ({"WANDB_API_KEY": "x"}, "", True),
        ({"WANDB_API_KEY": "x", "WANDB_MODE": "offline"}, "", False),
        ({}, "machine api.wandb.ai login user password key", True),
        ({"WANDB_BASE_URL": "https://wandb.lab.org"}, "machine api.wandb.ai login user password key", False),
    ],
)
def test_an_account_is_known_without_asking_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], netrc: str, expected: bool
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if netrc:
        (tmp_path / ".netrc").write_text(netrc)
        (tmp_path / ".netrc").chmod(0o600)
    assert has_account() is expected


def test_mistakes_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="there is no run in it"):
        read_study(tmp_path)
    silent = write_sweep(tmp_path / "silent", {"_target_": "detr.tracking.logger.NullLogger"})
    with pytest.raises(UserError, match="were not logged to W&B; train them with logger=wandb"):
        read_study(silent)
    study = read_study(write_sweep(tmp_path / "losses"))
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    with pytest.raises(UserError, match=r"pip install 'detr-lab\[report\]'"):
        build_report(study)
