"""Training by Adam (Kingma and Ba 2015), on the cross entropy of classes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from demos.classify.layers import Array, Layer, applied

BATCH = 64
STEP = 0.002
DECAY = (0.9, 0.999)
TINY = 1e-8


def probabilities(scores: Array) -> Array:
    """Return each row of scores as probabilities (softmax)."""
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares: Array = powers / powers.sum(axis=1, keepdims=True)
    return shares


def train(
    layers: Sequence[Layer], images: Array, labels: NDArray[np.int64], rounds: int, seed: int
) -> None:
    """Change the layers' weights in place, so that they tell the images' classes.

    Args:
        layers: of the network, the first one first.
        images: a batch.
        labels: the number of the class of each image.
        rounds: how often each image is looked at; the steps get smaller towards the last.
        seed: of the order.
    """
    random = np.random.default_rng(seed)
    weights = [weight for layer in layers for weight in layer.weights]
    means = [np.zeros_like(weight) for weight in weights]
    squares = [np.zeros_like(weight) for weight in weights]
    total = rounds * -(-len(images) // BATCH)
    done = 0
    for _ in range(rounds):
        order = random.permutation(len(images))
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            gradients = _gradients(layers, images[chosen], labels[chosen])
            done += 1
            rate = STEP * (1 - (done - 1) / total)
            for weight, gradient, mean, square in zip(
                weights, gradients, means, squares, strict=True
            ):
                _step(weight, gradient, mean, square, rate, done)


def accuracy(layers: Sequence[Layer], images: Array, labels: NDArray[np.int64]) -> float:
    """Return the share of images whose class is told right."""
    return float(np.mean(applied(layers, images).argmax(axis=1) == labels))


def _gradients(layers: Sequence[Layer], images: Array, labels: NDArray[np.int64]) -> list[Array]:
    batch = images
    for layer in layers:
        batch = layer.forward(batch)
    gradient = probabilities(batch)
    gradient[np.arange(len(labels)), labels] -= 1
    gradient /= np.float32(len(labels))
    first, *others = layers
    for layer in reversed(others):
        gradient = layer.backward(gradient)
    first.learn(gradient)
    return [gradient for layer in layers for gradient in layer.gradients]


def _step(
    weight: Array, gradient: Array, mean: Array, square: Array, rate: float, done: int
) -> None:
    mean += (1 - DECAY[0]) * (gradient - mean)
    square += (1 - DECAY[1]) * (gradient**2 - square)
    unbiased = mean / (1 - DECAY[0] ** done)
    spread = np.sqrt(square / (1 - DECAY[1] ** done))
    weight -= np.float32(rate) * unbiased / (spread + np.float32(TINY))
