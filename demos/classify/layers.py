"""What the networks are made of. Each layer computes, and hands gradients back, in numpy alone.

`forward` keeps what `backward` needs, so a layer that learns belongs to one thread; `apply` keeps
nothing, and any number of threads may call it. Batches come first, channels last.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array = NDArray[np.float32]


class Layer(Protocol):
    """A step of a network."""

    weights: list[Array]
    gradients: list[Array]

    def apply(self, batch: Array) -> Array:
        """Return what comes out."""
        ...

    def forward(self, batch: Array) -> Array:
        """Return the same, and remember the batch."""
        ...

    def learn(self, gradient: Array) -> None:
        """Set the weights' gradients by that of what came out."""
        ...

    def backward(self, gradient: Array) -> Array:
        """Do so, and return the gradient of what went in, which costs as much again."""
        ...


class Dense:
    """Every output is a weighted sum of all inputs."""

    def __init__(self, inputs: int, outputs: int, random: np.random.Generator) -> None:
        self.weights = [_drawn(random, inputs, outputs), np.zeros(outputs, np.float32)]
        self.gradients: list[Array] = []

    def apply(self, batch: Array) -> Array:
        sums: Array = batch @ self.weights[0] + self.weights[1]
        return sums

    def forward(self, batch: Array) -> Array:
        self._batch = batch
        return self.apply(batch)

    def learn(self, gradient: Array) -> None:
        self.gradients = [self._batch.T @ gradient, gradient.sum(axis=0)]

    def backward(self, gradient: Array) -> Array:
        self.learn(gradient)
        return gradient @ self.weights[0].T


class Convolution:
    """The same weighted sums at every place of an image: of the SIDE x SIDE pixels around it."""

    def __init__(self, side: int, channels: int, filters: int, random: np.random.Generator) -> None:
        self._side, self._channels = side, channels
        self._dense = Dense(side * side * channels, filters, random)
        self.weights = self._dense.weights
        self.gradients: list[Array] = []

    def apply(self, batch: Array) -> Array:
        return self._dense.apply(self._patches(batch))

    def forward(self, batch: Array) -> Array:
        self._shape = batch.shape
        patches = self._patches(batch)
        self._places = patches.shape[:-1]
        flat = patches.reshape(-1, patches.shape[-1])
        return self._dense.forward(flat).reshape(*self._places, -1)

    def learn(self, gradient: Array) -> None:
        self._dense.learn(gradient.reshape(-1, gradient.shape[-1]))
        self.gradients = self._dense.gradients

    def backward(self, gradient: Array) -> Array:
        flat = self._dense.backward(gradient.reshape(-1, gradient.shape[-1]))
        self.gradients = self._dense.gradients
        patches = flat.reshape(*self._places, self._channels, self._side, self._side)
        whole = np.zeros(self._shape, np.float32)
        _, height, width = self._places
        for row in range(self._side):
            for column in range(self._side):
                part = whole[:, row : row + height, column : column + width]
                part += patches[..., row, column]
        return whole

    def _patches(self, batch: Array) -> Array:
        windows = sliding_window_view(batch, (self._side, self._side), axis=(1, 2))
        return windows.reshape(*windows.shape[:3], -1)


class Positive:
    """What is below 0 becomes 0."""

    def __init__(self) -> None:
        self.weights: list[Array] = []
        self.gradients: list[Array] = []

    def apply(self, batch: Array) -> Array:
        kept: Array = np.maximum(batch, 0)
        return kept

    def forward(self, batch: Array) -> Array:
        self._kept = batch > 0
        return self.apply(batch)

    def learn(self, gradient: Array) -> None:
        """Do nothing: it has no weights."""

    def backward(self, gradient: Array) -> Array:
        passed: Array = gradient * self._kept
        return passed


class Largest:
    """The largest of each square of SIDE x SIDE places; the image is a multiple of it."""

    def __init__(self, side: int) -> None:
        self._side = side
        self.weights: list[Array] = []
        self.gradients: list[Array] = []

    def apply(self, batch: Array) -> Array:
        largest: Array = self._squares(batch).max(axis=(2, 4))
        return largest

    def forward(self, batch: Array) -> Array:
        largest = self.apply(batch)
        self._chosen = self._squares(batch) == largest[:, :, None, :, None]
        return largest

    def learn(self, gradient: Array) -> None:
        """Do nothing: it has no weights."""

    def backward(self, gradient: Array) -> Array:
        spread: Array = self._chosen * gradient[:, :, None, :, None]
        count, height, side, width, _, channels = spread.shape
        whole: Array = spread.reshape(count, height * side, width * side, channels)
        return whole

    def _squares(self, batch: Array) -> Array:
        count, height, width, channels = batch.shape
        side = self._side
        return batch.reshape(count, height // side, side, width // side, side, channels)


class Flat:
    """An image as one row."""

    def __init__(self) -> None:
        self.weights: list[Array] = []
        self.gradients: list[Array] = []

    def apply(self, batch: Array) -> Array:
        return batch.reshape(len(batch), -1)

    def forward(self, batch: Array) -> Array:
        self._shape = batch.shape
        return self.apply(batch)

    def learn(self, gradient: Array) -> None:
        """Do nothing: it has no weights."""

    def backward(self, gradient: Array) -> Array:
        return gradient.reshape(self._shape)


def applied(layers: Sequence[Layer], batch: Array) -> Array:
    """Return what comes out of all layers, one after the other."""
    for layer in layers:
        batch = layer.apply(batch)
    return batch


def _drawn(random: np.random.Generator, inputs: int, outputs: int) -> Array:
    """Return first weights as He et al. 2015 have them."""
    scale = np.sqrt(2 / inputs)
    return random.normal(0, scale, (inputs, outputs)).astype(np.float32)
