"""Every planted fault is named, alone, with file and id."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import planted_annotations  # noqa: F401 - each registers its faults
import planted_classes  # noqa: F401
import planted_files  # noqa: F401
import pytest
from planted import FAULTS, SETTINGS, Data, Fault, sound

from detr.checking.check import Report, check
from detr.checking.copying import write_copy
from detr.checking.finding import KINDS
from detr.checking.settings import settings_of
from detr.config import build, compose
from detr.config import check as checked
from detr.config.containers import Section
from detr.data.dataset import DataSet

AFTERWARDS = {"unlisted-images", "few-examples"}  # what mending may leave behind: files and objects are fewer


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Data:
    """Nothing is wrong with it yet; in the working folder, so that most tests have the same config."""
    monkeypatch.chdir(tmp_path)
    return sound(Path("data"))


@functools.cache
def values_of(*overrides: str) -> Section:
    return checked(compose([*SETTINGS, "dataset.root=data", *overrides]))[0]


def opened(data: Data) -> DataSet:
    dataset: DataSet = build(values_of(*data.overrides)["dataset"])
    return dataset


def report(data: Data) -> Report:
    values = values_of(*data.overrides)
    return check(opened(data), settings_of(values), pixels=True, progress=lambda title, total: lambda n: n)


def test_nothing_is_found_where_nothing_is_wrong(data: Data) -> None:
    data.save()
    assert [each.message for each in report(data).findings] == []


@pytest.mark.parametrize("fault", FAULTS, ids=lambda each: each.name)
def test_a_planted_fault_is_named(fault: Fault, data: Data) -> None:
    fault.plant(data)
    data.save()
    findings = report(data).findings
    found = [each for each in findings if each.check == fault.check]
    assert found, [each.message for each in findings]
    assert {each.check for each in findings} <= {fault.check} | fault.also, [each.message for each in findings]
    places = [place for each in found for place in each.places]
    if fault.file is not None:
        places = [place for place in places if place.file is not None and place.file.endswith(fault.file)]
        assert places, found
    if fault.annotation is not None:
        assert fault.annotation in [place.annotation_id for place in places]
    assert any(fault.words in f"{each.message} {each.places}" for each in found), found
    for each in findings:
        assert "\n" not in each.message
        assert each.message.endswith(each.todo)


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.mended], ids=lambda each: each.name)
def test_the_corrected_copy_checks_clean(fault: Fault, data: Data) -> None:
    fault.plant(data)
    data.save()
    before = {path: path.read_bytes() for path in data.root.rglob("*") if path.is_file()}
    lines, overrides = write_copy(report(data), opened(data), Path("copy"))
    assert len(lines) >= 1
    assert {path: path.read_bytes() for path in data.root.rglob("*") if path.is_file()} == before
    data.overrides += overrides
    left = [each.message for each in report(data).findings if each.check not in AFTERWARDS]
    assert left == [], lines


def test_a_sound_data_set_is_copied_as_it_is(data: Data) -> None:
    data.save()
    lines, overrides = write_copy(report(data), opened(data), Path("copy"))
    assert lines == []
    for name, content in data.splits.items():
        assert json.loads(Path(f"copy/annotations/{name}.json").read_text()) == content
    assert [each.partition("=")[0] for each in overrides] == ["dataset.train.annotations", "dataset.val.annotations"]


def test_there_is_a_fault_for_every_check() -> None:
    assert len(FAULTS) >= 60
    by_a_detector = {name for name in KINDS if name.startswith("label-")}  # test_label_errors.py
    assert {fault.check for fault in FAULTS} == set(KINDS) - by_a_detector
