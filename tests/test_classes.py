"""The table of classes that travels in checkpoints."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detr.structures import Classes

tables = st.dictionaries(st.integers(0, 200), st.text(min_size=1), min_size=1, max_size=20)


@given(tables)
def test_contiguous_classes(categories):
    classes = Classes.contiguous(categories)
    assert classes.num_classes == len(categories)
    assert sorted(classes.index_of.values()) == list(range(len(categories)))
    assert list(classes.category_ids) == sorted(categories)
    for category_id, name in categories.items():
        assert classes.names[classes.index_of[category_id]] == name


@given(tables)
def test_identity_classes(categories):
    classes = Classes.identity(categories)
    assert classes.num_classes == max(categories) + 1
    for index, (category_id, name) in enumerate(zip(classes.category_ids, classes.names, strict=True)):
        assert category_id == index == classes.index_of[category_id]
        assert name == categories.get(index, "N/A")


def test_coco_has_91_classes():
    holes = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    coco = {i: f"thing {i}" for i in range(1, 91) if i not in holes}
    classes = Classes.identity(coco)
    assert len(coco) == 80
    assert classes.num_classes == 91
    assert {i for i, name in enumerate(classes.names) if name == "N/A"} == holes | {0}


@given(tables)
def test_survives_a_checkpoint_and_json(categories):
    classes = Classes.contiguous(categories)
    assert Classes.from_dict(json.loads(json.dumps(classes.to_dict()))) == classes


def test_contradictions_are_refused():
    with pytest.raises(ValueError, match="2 names for 1 category ids"):
        Classes(("a", "b"), (1,))
    with pytest.raises(ValueError, match="two classes"):
        Classes(("a", "b"), (1, 1))
