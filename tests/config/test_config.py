"""Checking, building, storing and overriding configurations, without processes and without torch."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import pytest
from hydra.errors import HydraException
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from detr.config import build, check, compose, override, resolved, unresolved
from detr.config.annotations import problem
from detr.config.explain import CommandLine, explain
from detr.config.references import origin
from detr.config.suggest import closest
from detr.errors import UserError


class Part:
    """A stand-in for a constructor that a YAML mirrors."""

    def __init__(
        self,
        *,
        size: int = 1,
        rate: float = 0.1,
        mode: Literal["fast", "slow"] = "fast",
        levels: Sequence[float] = (),
        weights: Mapping[str, float] | None = None,
        limits: tuple[int, int] | None = None,
        path: str | None = None,
        flag: bool = False,
        inner: Part | None = None,
        factory: Callable[..., Part] | None = None,
        fact: object = None,
    ) -> None:
        if size < 0:
            raise ValueError(f"size: expected at least 0, got {size}")
        if size == 13:
            raise UserError("13 brings bad luck")
        self.arguments = {"size": size, "levels": levels, "weights": weights, "fact": fact, "inner": inner}
        self.made = factory(fact=fact) if factory else None


class Open:
    """Takes whatever it is given."""

    def __init__(self, **anything: object) -> None:
        self.anything = anything


PART = f"{__name__}.Part"


def config(**nodes: Any) -> Any:
    return OmegaConf.create(nodes)


def part(**arguments: Any) -> dict[str, Any]:
    return {"_target_": PART, **arguments}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": "abc"}, "part.size: expected an integer, got 'abc'"),
        ({"size": 1.5}, "part.size: expected an integer, got 1.5"),
        ({"size": True}, "part.size: expected an integer, got true"),
        ({"size": None}, "part.size: expected an integer, got null"),
        ({"rate": "fast"}, "part.rate: expected a number, got 'fast'"),
        ({"mode": "fats"}, "part.mode: expected 'fast' or 'slow', got 'fats'"),
        ({"levels": 3}, "part.levels: expected a list, got 3"),
        ({"levels": [1, "b"]}, "part.levels[1]: expected a number, got 'b'"),
        ({"weights": {"a": "b"}}, "part.weights.a: expected a number, got 'b'"),
        ({"weights": 2}, "part.weights: expected a mapping, got 2"),
        ({"limits": [1, "x"]}, "part.limits[1]: expected an integer, got 'x'"),
        ({"path": 7}, "part.path: expected a string, got 7; in quotes it is a string: 'part.path=\"7\"'"),
        ({"flag": "yes"}, "part.flag: expected true or false, got 'yes'"),
        ({"factory": 3}, "part.factory: expected a part, with _target_, got 3"),
        ({"sise": 3}, f"part.sise: {PART} does not take sise; did you mean part.size?"),
        ({"inner": part(size="abc")}, "part.inner.size: expected an integer, got 'abc'"),
        ({"size": "???"}, "part.size: a value is missing; give it with part.size=…"),
        ({"size": "${part.zise}"}, "part.size: Interpolation key 'part.zise' not found"),
        ({"path": "${oc.env:NO_SUCH_VARIABLE}"}, "part.path: Environment variable 'NO_SUCH_VARIABLE' not found"),
    ],
)
def test_check_names_key_and_fault(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        check(config(part=part(**arguments)))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"size": 3, "rate": 1, "levels": [1, 2.5], "weights": {"a": 1}, "limits": [1, 2], "path": None, "flag": True},
        {"inner": part(size=2), "factory": {"_target_": PART, "_partial_": True}},
        {"rate": 1e-4, "mode": "slow", "path": "/x"},
    ],
)
def test_check_lets_right_values_pass(arguments: dict[str, Any]) -> None:
    check(config(part=part(**arguments)))


def test_check_names_the_key_at_the_end_of_references() -> None:
    chained = config(width={"value": "abc"}, first=part(size="${width.value}"), model=part(inner="${first}"), seed=1)
    with pytest.raises(UserError, match=r"^width\.value: expected an integer, got 'abc'$"):
        check(chained)


def test_check_refuses_keys_that_nothing_reads() -> None:
    check(config(shared={"size": 3}, part=part(size="${shared.size}")))
    with pytest.raises(UserError, match=r"^shared\.siez: nothing reads this key; did you mean shared\.size\?"):
        check(config(shared={"size": 3, "siez": 4}, part=part(size="${shared.size}")))


def test_check_holds_the_entry_points_own_keys_to_their_schema() -> None:
    check(config(seed=3, resume=None, dataloader={"batch_size": 2, "num_workers": 0}))
    with pytest.raises(UserError, match=r"^dataloader\.batch_size: expected at least 1, got 0$"):
        check(config(dataloader={"batch_size": 0}))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (f"{__name__}.Opne", f"did you mean {__name__}.Open"),
        ("no_such_package.Part", "no module no_such_package"),
        (f"{__name__}.PART", "cannot be called"),
    ],
)
def test_check_of_targets(target: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(config(part={"_target_": target}))


def test_check_lets_open_constructors_take_anything() -> None:
    check(config(part={"_target_": f"{__name__}.Open", "any": {"thing": 1}}))


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5))
@example(2**63 - 1)
@example(2**63)
@example(-(2**63))
def test_strict_integers_are_integers(value: Any) -> None:
    """Of 64 bits: NumPy and PyTorch have no others."""
    right = isinstance(value, int) and not isinstance(value, bool) and -(2**63) < value < 2**63
    assert (problem(value, int) is None) == right
    assert (problem(value, int | None) is None) == (right or value is None)


def test_build_gives_plain_containers_and_facts_as_they_are() -> None:
    fact = object()
    made = build({"_target_": PART, "levels": [1.0], "weights": {"a": 2.0}, "inner": part(size=5)}, "part", fact=fact)
    assert type(made.arguments["levels"]) is list
    assert type(made.arguments["weights"]) is dict
    assert made.arguments["fact"] is fact
    assert made.arguments["inner"].arguments["size"] == 5
    assert build(None, "part") is None


def test_build_says_where_a_constructor_refused() -> None:
    plain = resolved(
        config(outer=part(inner="${below.part}", factory="${late}"), below={"part": part()}, late=part(_partial_=True))
    )
    with pytest.raises(UserError, match=r"^outer: size: expected at least 0, got -1$"):
        build(dict(plain["outer"]) | {"size": -1}, "outer")
    with pytest.raises(UserError, match=r"^below\.part: size: expected at least 0, got -2$"):
        build(plain["outer"].changed(inner=plain["outer"]["inner"].changed(size=-2)))
    nested = resolved(config(outer=part(inner="${below.part}"), below={"part": part(size=-3)}))
    with pytest.raises(UserError, match=r"^below\.part: size: expected at least 0, got -3$"):
        build(nested["outer"], "outer")
    partial = resolved(config(outer=part(factory="${late}"), late=part(_partial_=True, size=-4)))
    with pytest.raises(UserError, match=r"^late: size: expected at least 0, got -4$"):
        build(partial["outer"], "outer")


def test_build_passes_user_errors_on() -> None:
    with pytest.raises(UserError, match=r"^13 brings bad luck$"):
        build(resolved(config(outer=part(inner=part(size=13))))["outer"], "outer")


def test_stored_config_keeps_inner_references_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETR_TEST_PLACE", "here")
    source = config(
        root="/a",
        images="${root}/images",
        place="${oc.env:DETR_TEST_PLACE}",
        both="${root}/${oc.env:DETR_TEST_PLACE}",
        several=["${root}", "${oc.env:DETR_TEST_PLACE}"],
        alias="${several}",
    )
    stored = unresolved(source)
    monkeypatch.delenv("DETR_TEST_PLACE")
    assert stored == {
        "root": "/a",
        "images": "${root}/images",
        "place": "here",
        "both": "/a/here",
        "several": ["${root}", "here"],
        "alias": "${several}",
    }
    assert json.loads(json.dumps(stored)) == stored
    assert resolved(OmegaConf.create(stored | {"root": "/b"}))["images"] == "/b/images"


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    return unresolved(compose())


def plain(composed: Any) -> Any:
    return OmegaConf.to_container(composed, resolve=False)


def test_composed_config_has_no_open_questions(stored: dict[str, Any]) -> None:
    assert stored["name"] == "quickstart"
    assert "${hydra" not in json.dumps(stored)
    assert resolved(OmegaConf.create(stored))["logger"]["_target_"] == "detr.tracking.wandb_logger.WandbLogger"


VALUES = {
    "seed": [1, 2],
    "optimizer.lr": ["1e-3", "5"],
    "dataset.root": ["/elsewhere", "'a b'"],
    "queries.num_queries": [7],
    "trainer.max_epochs": ["null", 3],
    "+dataset.extra": ["[1,2]", "{a:b}"],
    "++trainer.clip_norm": [2.0],
    "~dataset.test": [None],
}


@settings(max_examples=6)
@given(st.data())
def test_overriding_what_is_stored_is_composing_with_the_overrides(stored: dict[str, Any], data: st.DataObject) -> None:
    keys = data.draw(st.lists(st.sampled_from(sorted(VALUES)), unique=True, max_size=4))
    texts = []
    for key in keys:
        value = data.draw(st.sampled_from(VALUES[key]))
        texts.append(key if value is None else f"{key}={value}")
    assert plain(override(stored, texts)) == plain(compose(texts))


@pytest.mark.parametrize(
    "choices", [["dataset=custom"], ["logger=none"], ["evaluator=coco"], ["experiment=detr_r50_coco"]]
)
def test_choices_on_what_is_stored_are_choices_when_composing(stored: dict[str, Any], choices: list[str]) -> None:
    expected = plain(compose(choices))
    assert plain(override(stored, choices)) == expected


def test_nested_choices(stored: dict[str, Any]) -> None:
    swapped = plain(override(stored, ["transformer/encoder=detr"]))
    assert swapped["transformer"]["encoder"]["_target_"] == "detr.models.encoder.TransformerEncoder"
    assert {**swapped, "transformer": {**swapped["transformer"], "encoder": None}} == {
        **stored,
        "transformer": {**stored["transformer"], "encoder": None},
    }
    both = plain(override(stored, ["transformer/encoder=top_down", "transformer=detr"]))
    assert both["transformer"]["encoder"]["_target_"] == "detr.models.top_down.TopDownEncoder"
    assert both["transformer"]["d_model"] == 256


def test_values_win_over_choices_in_any_order(stored: dict[str, Any]) -> None:
    texts = ["dataset=custom", "dataset.root=/mine", "+dataset.extra=1"]
    results = [plain(override(stored, list(order))) for order in itertools.permutations(texts)]
    assert all(result == results[0] for result in results)
    assert results[0]["dataset"]["root"] == "/mine"
    assert results[0]["dataset"]["train"]["images"] == "${dataset.root}/images"


def test_override_leaves_what_is_stored_alone(stored: dict[str, Any]) -> None:
    before = json.dumps(stored)
    assert plain(override(stored, [])) == stored
    override(stored, ["dataset=custom", "seed=7", "~dataset.test"])
    assert json.dumps(stored) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainer.max_epoch=1", "did you mean trainer.max_epochs"),
        ("dataset=cutom", "did you mean custom"),
        ("+seed=1", "without the plus"),
        ("~sed", "did you mean seed"),
        ("seed=1,2", "one value"),
        ("seed=[", "seed=\\["),
        ("seed", "key=value"),
        ("dataset=3", "choose one of"),
    ],
)
def test_wrong_overrides_of_what_is_stored(stored: dict[str, Any], text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        override(stored, [text])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("~optimzer", "did you mean optimizer?"),
        ("transformer/encodr=detr", "did you mean transformer/encoder"),
        ("+trainer.max_epochs=2", "without the plus"),
        ("backbone=", "choose one of"),
        ("experiment=null", "choose one of"),
        ("+backbone=resnet18", "without plus"),
        ("trainer.max_epochs=1,2", "--multirun"),
        ("seed.x=3", "seed is a value"),
        ("hydra.mod=RUN", "did you mean hydra.mode"),
        ("hydra.mode=foo", "expected one of"),
        ("trainer.nothing_like_it=1", "keys of trainer are max_epochs"),
        ("~backbone=resnet18", "resnet18"),
    ],
)
def test_refusals_of_hydra_in_one_line(text: str, message: str) -> None:
    from detr.config.compose import load

    with pytest.raises((HydraException, ValueError)) as caught:
        load("train", [text])
    line = explain(caught.value, CommandLine("train", [text]))
    assert message in line
    assert "\n" not in line


def test_sweeps_are_explained_value_by_value() -> None:
    command = CommandLine("train", ["backbone=resnet18,resnt50"], multirun=True)
    assert explain(HydraException(), command) == "backbone=resnt50: there is no such option; did you mean resnet50?"


@given(st.lists(st.text("abc._", min_size=1, max_size=8), max_size=8), st.text("abc._", max_size=8))
def test_suggestions_are_candidates_and_an_exact_one_comes_first(candidates: list[str], word: str) -> None:
    found = closest(word, candidates)
    assert set(found) <= set(candidates)
    assert len(found) <= 3
    if word in candidates:
        assert found[0] == word


def test_origin_follows_relative_and_nested_references() -> None:
    tree = {"a": {"b": "${.c}", "c": "${d.e}"}, "d": "${f}", "f": {"e": 3}, "cycle": "${cycle}"}
    assert origin(tree, ("a", "b")) == ("f", "e")
    assert origin(tree, ("d", "e")) == ("f", "e")
    assert origin(tree, ("f", "e")) == ("f", "e")
    assert origin(tree, ("cycle",)) == ("cycle",)
