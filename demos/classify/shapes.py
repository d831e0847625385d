"""Images of shapes, drawn by a seed: some place, size, turn and brightness, and noise over it."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

SIDE = 28
"""Pixels of an image, each way."""

NOISE = 0.08
"""Standard deviation, where black is 0 and white is 1."""

Image = NDArray[np.float32]
Field = NDArray[np.float64]


def _triangle(x: Field, y: Field) -> Field:
    turns = np.pi * np.array([1 / 2, 7 / 6, 11 / 6])
    sides = np.array([np.cos(turn) * x + np.sin(turn) * y for turn in turns])
    inside: Field = 0.5 - sides.max(axis=0)
    return inside


def _cross(x: Field, y: Field) -> Field:
    across = np.minimum(0.9 - abs(x), 0.3 - abs(y))
    down = np.minimum(0.3 - abs(x), 0.9 - abs(y))
    return np.maximum(across, down)


INSIDE: dict[str, Callable[[Field, Field], Field]] = {
    "cross": _cross,
    "disc": lambda x, y: 0.9 - np.hypot(x, y),
    "ring": lambda x, y: 0.2 - abs(0.7 - np.hypot(x, y)),
    "square": lambda x, y: 0.75 - np.maximum(abs(x), abs(y)),
    "stick": lambda x, y: np.minimum(0.95 - abs(x), 0.2 - abs(y)),
    "triangle": _triangle,
}
"""How far inside a shape of radius 1 a point is; outside it is below 0."""

CLASSES = tuple(INSIDE)


def drawn(shape: str, random: np.random.Generator) -> Image:
    """Return an image of a shape, SIDE x SIDE, from 0 to 1."""
    radius = random.uniform(8.0, 11.0)
    centre = SIDE / 2 + random.uniform(-3.0, 3.0, 2)
    turn = random.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5 - centre[:, None, None]
    x = (np.cos(turn) * columns + np.sin(turn) * rows) / radius
    y = (np.cos(turn) * rows - np.sin(turn) * columns) / radius
    covered = np.clip(INSIDE[shape](x, y) * radius + 0.5, 0, 1)
    dark, bright = random.uniform(0, 0.3), random.uniform(0.6, 1)
    noisy = dark + (bright - dark) * covered + random.normal(0, NOISE, covered.shape)
    return np.clip(noisy, 0, 1).astype(np.float32)


def labelled(count: int, seed: int) -> tuple[Image, NDArray[np.int64]]:
    """Return images, count x SIDE x SIDE, and for each the place of its class in CLASSES."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, len(CLASSES), count)
    return np.stack([drawn(CLASSES[label], random) for label in labels]), labels
