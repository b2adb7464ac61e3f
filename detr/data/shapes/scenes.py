"""The pictures of the embedded data set: coloured shapes among strokes and patches that are no object.

A scene is a function of its key only, on every machine: masks come from integers (`raster.py`), and random
numbers only from the doubles of PCG64. The look is drawn from a stream of its own, so that it can never
move a box.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from detr.data.shapes.raster import FULL, Stencil, rasterize

SIDE = 128  # pixels
CLASSES = ("circle", "square", "triangle", "star", "cross")
STUFF = ("background", "patch")  # what is no object; strokes are neither, being too thin for a mask to follow
VOID = -1
MAX_OBJECTS = 6
EMPTY_EVERY = 8  # one image in so many has no object
OBJECT_SIZE = (0.1, 0.45)  # longer side of the whole shape's box, in units of the image
MIN_VISIBLE = 0.75  # of an object's pixels, whatever lies on top of it
ATTEMPTS = 30  # to place an object or a stroke before it is left out
OBJECT_CONTRAST = 120  # sum of the three channels' distances to what lies below
CLUTTER_CONTRAST = 45

Colour = NDArray[np.int32]  # [3]
Points = NDArray[np.float64]  # [V, 2] (x, y)
T = TypeVar("T")


class Draws:
    """Draws random numbers for one purpose, from doubles of PCG64 alone: numpy may change its other distributions."""

    def __init__(self, *key: int) -> None:
        self._generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(self._generator.random())

    def array(self, low: float, high: float, *shape: int) -> NDArray[np.float64]:
        return low + (high - low) * self._generator.random(shape)

    def integer(self, low: int, high: int) -> int:
        """Return an integer from `low` to `high`, both included."""
        return low + int(self._generator.random() * (high - low + 1))

    def choice(self, options: Sequence[T]) -> T:
        return options[self.integer(0, len(options) - 1)]


@dataclass
class Layer:
    """Holds something painted; `object` is its number among the scene's objects, or None for clutter."""

    stencil: Stencil
    object: int | None = None


@dataclass
class Scene:
    """Holds what lies where, from the bottom to the top."""

    layers: list[Layer] = field(default_factory=list)
    classes: list[int] = field(default_factory=list)  # of each object, index into CLASSES
    owner: NDArray[np.int64] = field(default_factory=lambda: np.full((SIDE, SIDE), -1))  # topmost object, -1: none
    stuff: NDArray[np.int64] = field(default_factory=lambda: np.zeros((SIDE, SIDE), dtype=np.int64))  # below objects
    pixels: list[int] = field(default_factory=list)  # of each object, before anything covered it

    def mask(self, number: int) -> NDArray[np.bool_]:
        """Return [SIDE, SIDE] the visible pixels of an object."""
        return self.owner == number

    def hides_too_much(self, stencil: Stencil) -> bool:
        """Return whether painting here would leave less than MIN_VISIBLE of some object."""
        length = len(self.pixels) + 1
        covered = np.bincount(self.owner[stencil.rows, stencil.columns][stencil.mask] + 1, minlength=length)
        visible = np.bincount(self.owner.ravel() + 1, minlength=length)
        return bool(np.any((visible - covered)[1:] < MIN_VISIBLE * np.array(self.pixels)))

    def stuff_mask(self, index: int) -> NDArray[np.bool_]:
        """Return [SIDE, SIDE] the visible pixels of STUFF number `index`."""
        return (self.owner < 0) & (self.stuff == index)

    def paint(self, stencil: Stencil, class_index: int | None = None, *, stuff: int = VOID) -> None:
        """Put a layer on top: an object of a class, or clutter, which may be stuff (an index into STUFF)."""
        number = None if class_index is None else len(self.classes)
        self.layers.append(Layer(stencil, number))
        self.owner[stencil.rows, stencil.columns][stencil.mask] = -1 if number is None else number
        if class_index is None:
            self.stuff[stencil.rows, stencil.columns][stencil.mask] = stuff
        else:
            self.classes.append(class_index)
            self.pixels.append(int(stencil.mask.sum()))


def compose(split: int, index: int) -> Scene:
    """Return image `index` of split number `split`: patches and strokes, objects on them, sometimes a stroke on top."""
    draws = Draws(split, index, 0)
    scene = Scene()
    for _ in range(draws.integer(1, 3)):
        patch = _placed(_patch(draws), draws.uniform(0.08, 0.4) * SIDE, draws)
        scene.paint(patch, stuff=STUFF.index("patch"))
    for _ in range(draws.integer(1, 2)):
        scene.paint(rasterize(_stroke(draws), SIDE))
    if index % EMPTY_EVERY != EMPTY_EVERY - 1:
        for _ in range(draws.integer(1, MAX_OBJECTS)):
            _add_object(scene, draws)
    for _ in range(draws.integer(0, 1)):
        _add_front_stroke(scene, draws)
    return scene


def _add_object(scene: Scene, draws: Draws) -> None:
    class_index = draws.integer(0, len(CLASSES) - 1)
    outline = OUTLINES[class_index](draws)
    size = draws.uniform(*OBJECT_SIZE) * SIDE
    for _ in range(ATTEMPTS):
        stencil = _placed(outline, size, draws)
        if not scene.hides_too_much(stencil):
            scene.paint(stencil, class_index)
            return


def _add_front_stroke(scene: Scene, draws: Draws) -> None:
    for _ in range(ATTEMPTS):
        stencil = rasterize(_stroke(draws), SIDE)
        if not scene.hides_too_much(stencil):
            scene.paint(stencil)
            return


def _placed(outline: Points, size: float, draws: Draws) -> Stencil:
    """An outline turned by any angle, its box's longer side `size` pixels, somewhere wholly within the image."""
    angle = draws.uniform(0, 2 * math.pi)
    cosine, sine = math.cos(angle), math.sin(angle)
    turned = outline @ np.array([[cosine, sine], [-sine, cosine]])
    turned = (turned - turned.min(axis=0)) * (size / (turned.max(axis=0) - turned.min(axis=0)).max())
    room = SIDE - turned.max(axis=0)
    return rasterize(turned + room * draws.array(0, 1, 2), SIDE)


def _ring(count: int, radii: NDArray[np.float64] | float = 1.0) -> Points:
    """Points around the origin, at equal angles."""
    angles = np.arange(count) * (2 * math.pi / count)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.broadcast_to(radii, (count,))[:, None]


def _circle(draws: Draws) -> Points:
    return _ring(32) * [1.0, draws.uniform(0.85, 1.0)]


def _square(draws: Draws) -> Points:
    return np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [1.0, draws.uniform(0.8, 1.0)]


def _triangle(draws: Draws) -> Points:
    return _ring(3) * [draws.uniform(0.85, 1.15), 1.0]


def _star(draws: Draws) -> Points:
    return _ring(10, np.tile([1.0, draws.uniform(0.4, 0.5)], 5))


def _cross(draws: Draws) -> Points:
    a = draws.uniform(0.28, 0.4)
    quarter = np.array([[1, -a], [1, a], [a, a]])
    turn = np.array([[0, 1], [-1, 0]])
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])


OUTLINES: tuple[Callable[[Draws], Points], ...] = (_circle, _square, _triangle, _star, _cross)


def _patch(draws: Draws) -> Points:
    return draws.choice((_blob, _blob, _bar, _half_disc, _bracket))(draws)


def _blob(draws: Draws) -> Points:
    """An amoeba: long, uneven radii, two bays, corners cut (Chaikin's algorithm); nothing to be taken for a circle."""
    radii = draws.array(0.6, 1.0, 8)
    radii[[0, draws.integer(2, 6)]] = draws.array(0.2, 0.35, 2)
    points = _ring(8, radii) * [1.0, draws.uniform(0.5, 0.7)]
    for _ in range(2):
        following = np.roll(points, -1, axis=0)
        points = np.stack([0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following], axis=1).reshape(-1, 2)
    return points


def _bar(draws: Draws) -> Points:
    return _square(draws) * [1.0, draws.uniform(0.12, 0.3)]


def _half_disc(draws: Draws) -> Points:
    return _ring(24)[:13] * [1.0, draws.uniform(0.8, 1.0)]


def _bracket(draws: Draws) -> Points:
    """An L."""
    a, b = draws.uniform(0.25, 0.45), draws.uniform(0.6, 1.0)
    return np.array([[0, 0], [1, 0], [1, a], [a, a], [a, b], [0, b]])


def _stroke(draws: Draws) -> Points:
    """A bent line (a quadratic Bézier curve) of 1.5 to 4 pixels across the image."""
    a, b, c = draws.array(-0.1, 1.1, 3, 2) * SIDE
    half = draws.uniform(0.75, 2.0)
    t = (np.arange(13) / 12)[:, None]
    curve = (1 - t) * (1 - t) * a + 2 * t * (1 - t) * b + t * t * c
    tangent = (1 - t) * (b - a) + t * (c - b)
    normal = tangent[:, ::-1] * [1, -1] / np.maximum(np.sqrt((tangent * tangent).sum(axis=1, keepdims=True)), 1e-3)
    return np.concatenate([curve + half * normal, (curve - half * normal)[::-1]])


def render(scene: Scene, split: int, index: int) -> NDArray[np.uint8]:
    """Return [SIDE, SIDE, 3] the picture."""
    draws = Draws(split, index, 1)
    canvas = _textured(_whole(draws.array(20, 235, 3)), draws, (SIDE, SIDE), strength=35)
    for layer in scene.layers:
        _paint(canvas[layer.stencil.rows, layer.stencil.columns], layer, draws)
    light = _smooth_noise(draws, (SIDE, SIDE), cells=2)  # uneven illumination
    noise = draws.array(-6, 6, SIDE, SIDE)
    canvas += _whole(light * 40 - 20 + noise)[..., None]
    return np.clip(canvas, 0, 255).astype(np.uint8)


def _paint(window: NDArray[np.int32], layer: Layer, draws: Draws) -> None:
    """Blend a layer into its window [h, w, 3] of the canvas, in a colour that stands out from what lies below."""
    contrast = CLUTTER_CONTRAST if layer.object is None else OBJECT_CONTRAST
    colour = _contrasting(window[layer.stencil.mask], contrast, draws)
    paint = _textured(colour, draws, layer.stencil.coverage.shape, strength=22)
    rows, columns = np.nonzero(layer.stencil.coverage)
    coverage = layer.stencil.coverage[rows, columns, None].astype(np.int32)
    below = window[rows, columns]
    window[rows, columns] = below + (paint[rows, columns] - below) * coverage // FULL


def _contrasting(below: NDArray[np.int32], contrast: int, draws: Draws) -> Colour:
    """A colour that stands out from the mean of the pixels [n, 3] that it will cover."""
    mean = below.sum(axis=0) // max(len(below), 1)
    while True:
        colour = _whole(draws.array(10, 245, 3))
        if int(np.abs(colour - mean).sum()) >= contrast:
            return colour


def _textured(colour: Colour, draws: Draws, shape: tuple[int, ...], strength: int) -> NDArray[np.int32]:
    """[h, w, 3] a colour, made lighter and darker by one of the textures."""
    shade = _whole(64 * _shade(draws, shape[0], shape[1]))
    tint = _whole(draws.array(0.4, 1.0, 3) * strength * draws.uniform(0.4, 1.0))
    return colour + shade[..., None] * tint // 64


def _shade(draws: Draws, height: int, width: int) -> NDArray[Any]:
    """[h, w] in [-1, 1]: one of the textures."""
    kind = draws.choice(("plain", "noise", "noise", "stripes", "checks", "speckle"))
    rows, columns = np.arange(height)[:, None], np.arange(width)[None, :]
    if kind == "noise":
        return _smooth_noise(draws, (height, width), draws.integer(2, 12)) * 2 - 1
    if kind == "stripes":
        slope_y, slope_x = draws.integer(-3, 3), draws.integer(1, 3)
        return (rows * slope_y + columns * slope_x) // draws.integer(4, 12) % 2 * 2 - 1
    if kind == "checks":
        period = draws.integer(2, 8)
        return (rows // period + columns // period) % 2 * 2 - 1
    if kind == "speckle":
        return draws.array(-1, 1, height, width)
    return np.zeros((height, width))


def _smooth_noise(draws: Draws, shape: tuple[int, int], cells: int) -> NDArray[np.float64]:
    """[h, w] in [0, 1]: random values at the corners of cells × cells squares, blended linearly."""
    grid = draws.array(0, 1, cells + 1, cells + 1)
    y, x = (np.arange(length) * (cells / length) for length in shape)
    top, left = y.astype(int), x.astype(int)
    v, u = (y - top)[:, None], (x - left)[None, :]
    across = grid[:, left] * (1 - u) + grid[:, left + 1] * u
    return across[top] * (1 - v) + across[top + 1] * v


def _whole(values: NDArray[Any]) -> NDArray[np.int32]:
    return np.rint(values).astype(np.int32)
