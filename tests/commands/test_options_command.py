"""`detr options`: what a user sees of conf/, and the page that is made of it."""

from __future__ import annotations

import pytest
from command import ROOT

from detr.commands.options import answer, documented, kind_of, page, settings
from detr.config.compose import groups
from detr.errors import UserError
from detr.models.deformable import DeformableDecoder


@pytest.mark.slow
def test_the_page_is_up_to_date() -> None:
    """After a change: detr options --markdown > docs/options.md"""
    assert page() == (ROOT / "docs" / "options.md").read_text(encoding="utf-8")


def test_every_key_of_the_page_is_explained() -> None:
    rows = [line for line in (ROOT / "docs" / "options.md").read_text(encoding="utf-8").splitlines() if "|" in line]
    keys = [line for line in rows if line.startswith("| `")]
    assert len(keys) > 700
    assert [line for line in keys if line.endswith("|  |")] == []


def test_every_group_and_every_option_is_listed() -> None:
    listed = dict(line.split(maxsplit=1) for line in answer(None))
    assert listed.keys() == groups().keys()
    assert listed["matcher"] == "hungarian"
    for group, options in groups().items():
        lines = list(answer(group))
        assert [line.split()[0] for line in lines] == options
        assert all(len(line.split()) > 2 for line in lines), "each says what it is"


def test_every_key_of_an_option_has_type_default_and_words() -> None:
    found = {setting.key: setting for setting in settings("transformer", "deformable")}
    points = found["transformer.decoder.num_points"]
    assert (points.kind, points.default) == ("int or list of int", "4")
    assert points.words == documented(DeformableDecoder)["num_points"]
    activation = found["transformer.activation"]  # which others refer to
    assert (activation.kind, activation.default) == ("relu | gelu | silu | glu | prelu", "'relu'")
    assert activation.words
    assert found["transformer.decoder.num_layers"].words == "decoder layers, at least 1."  # of the class that it names
    assert found["transformer.decoder.box_coder"].default == "${box_coder}"


def test_an_experiment_shows_what_it_sets() -> None:
    found = {setting.key: setting for setting in settings("experiment", "quickstart")}
    assert found["trainer.max_minutes"].default == "2"
    assert found["trainer.max_minutes"].kind == "float or null"
    assert "optimizer.lr" not in found  # small_data sets it


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int, "int"),
        (str | None, "str or null"),
        (list[str | int], "list of str or int"),
        (dict[str, float], "mapping of float"),
        (DeformableDecoder, "part"),
        (None, ""),
    ],
)
def test_types_as_yaml_has_them(annotation: object, words: str) -> None:
    assert kind_of(annotation) == words


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("transfomer", "transfomer: there is no such group; did you mean transformer"),
        ("backbone=resnet52", "backbone=resnet52: there is no such option; did you mean resnet50"),
    ],
)
def test_a_typo_is_answered(asked: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        list(answer(asked))
    assert str(error.value).startswith(message)
