"""Boxes against torchvision's operations and against cells counted on a grid."""

from __future__ import annotations

import torch
from builders import random_boxes
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import generalized_box_iou

from detr.boxes import cxcywh_to_xyxy, generalized_iou, inverse_sigmoid, xyxy_to_cxcywh

coordinate = st.integers(0, 12)


@st.composite
def grid_box(draw: st.DrawFn) -> tuple[int, int, int, int]:
    left, top = draw(coordinate), draw(coordinate)
    return left, top, left + draw(st.integers(1, 8)), top + draw(st.integers(1, 8))


def cells(box: tuple[int, int, int, int]) -> set[tuple[int, int]]:
    left, top, right, bottom = box
    return {(x, y) for x in range(left, right) for y in range(top, bottom)}


@given(grid_box(), grid_box())
def test_generalized_iou_counts_cells(first: tuple[int, int, int, int], second: tuple[int, int, int, int]) -> None:
    a, b = cells(first), cells(second)
    hull = cells((*map(min, first[:2], second[:2]), *map(max, first[2:], second[2:])))
    expected = len(a & b) / len(a | b) - (len(hull) - len(a | b)) / len(hull)
    ours = generalized_iou(torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64))
    assert abs(ours.item() - expected) < 1e-12


def test_generalized_iou_broadcasts_as_torchvision_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (cxcywh_to_xyxy(random_boxes(count, generator)) for count in (5, 7))
    torch.testing.assert_close(generalized_iou(first[:, None], second), generalized_box_iou(first, second))
    batched = generalized_iou(first.expand(2, 3, 5, 4)[:, :, :, None], second.expand(3, 7, 4)[:, None])
    assert batched.shape == (2, 3, 5, 7)
    torch.testing.assert_close(batched[1, 2], generalized_box_iou(first, second))


def test_formats_are_inverse() -> None:
    assert cxcywh_to_xyxy(torch.tensor([5.0, 7.0, 4.0, 2.0])).tolist() == [3, 6, 7, 8]
    boxes = random_boxes(20, torch.Generator().manual_seed(0))
    torch.testing.assert_close(xyxy_to_cxcywh(cxcywh_to_xyxy(boxes)), boxes)


def test_inverse_sigmoid() -> None:
    values = torch.tensor([0.01, 0.5, 0.9])
    torch.testing.assert_close(inverse_sigmoid(values).sigmoid(), values)
    assert inverse_sigmoid(torch.tensor([-1.0, 0.0, 1.0, 2.0])).isfinite().all()
