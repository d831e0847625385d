"""The two models: what they are made of, how they are trained, and where their weights are kept.

`python -m demos.classify.models` trains both, says how many of 1,000 images that they have never
seen they get right, and keeps their weights, for services that start within a second.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from demos.classify.layers import (
    Array,
    Convolution,
    Dense,
    Flat,
    Largest,
    Layer,
    Positive,
    applied,
)
from demos.classify.shapes import CLASSES, SIDE, labelled
from demos.classify.training import accuracy, probabilities, train

WEIGHTS = Path(__file__).with_name("weights")
TRAINED_ON, TRAINING_SEED = 4000, 1
HELD_OUT, HELD_OUT_SEED = 1000, 2


def _perceptron(random: np.random.Generator) -> list[Layer]:
    return [Flat(), Dense(SIDE * SIDE, 64, random), Positive(), Dense(64, len(CLASSES), random)]


def _convnet(random: np.random.Generator) -> list[Layer]:
    return [
        Convolution(5, 1, 8, random),  # 28 to 24
        Largest(2),
        Positive(),
        Convolution(3, 8, 16, random),  # 12 to 10
        Largest(2),
        Positive(),
        Flat(),
        Dense(5 * 5 * 16, len(CLASSES), random),
    ]


MADE: dict[str, tuple[Callable[[np.random.Generator], list[Layer]], int]] = {
    "perceptron": (_perceptron, 20),
    "convnet": (_convnet, 5),
}
"""What each is made of, and how often it looks at each image."""


@dataclass(frozen=True)
class Model:
    """A network that is trained."""

    layers: Sequence[Layer]

    def told(self, image: Array) -> list[tuple[str, float]]:
        """Return the classes and how probable each is, the most probable first."""
        found = probabilities(applied(self.layers, image.reshape(1, SIDE, SIDE, 1)))[0]
        return [(CLASSES[number], float(found[number])) for number in np.argsort(-found)]


def model(name: str, folder: Path = WEIGHTS) -> Model:
    """Return a model, trained now if its weights are not kept yet.

    Args:
        name: one of MADE.
        folder: where weights are.
    """
    kept = folder / f"{name}.npz"
    return Model(_read(name, kept) if kept.is_file() else trained(name))


def trained(name: str) -> list[Layer]:
    """Return a model's layers as they are after training, the same each time."""
    make, rounds = MADE[name]
    layers = make(np.random.default_rng(TRAINING_SEED))
    images, labels = labelled(TRAINED_ON, TRAINING_SEED)
    train(layers, images[..., None], labels, rounds, TRAINING_SEED)
    return layers


def keep(name: str, layers: Sequence[Layer], folder: Path = WEIGHTS) -> Path:
    """Write a model's weights and return where; a reader finds all of them or none."""
    folder.mkdir(parents=True, exist_ok=True)
    kept, part = folder / f"{name}.npz", folder / f"{name}.part.npz"
    np.savez(part, *[weight for layer in layers for weight in layer.weights])
    return part.replace(kept)


def _read(name: str, kept: Path) -> list[Layer]:
    layers = MADE[name][0](np.random.default_rng(0))
    with np.load(kept) as file:
        weights = [file[key] for key in file.files]
    own = [weight for layer in layers for weight in layer.weights]
    if [weight.shape for weight in weights] != [weight.shape for weight in own]:
        raise SystemExit(f"{kept} is of another version: python -m demos.classify.models")
    for weight, read in zip(own, weights, strict=True):
        weight[...] = read
    return layers


def main() -> None:
    print(f"training {' and '.join(MADE)}, which takes up to a minute", flush=True)
    images, labels = labelled(HELD_OUT, HELD_OUT_SEED)
    for name in MADE:
        began = time.process_time()
        layers = trained(name)
        took = time.process_time() - began
        right = accuracy(layers, images[..., None], labels)
        print(f"{name}: {right:.1%} of {HELD_OUT} held-out images right; {took:.0f} s of training")
        keep(name, layers)
    print(f"weights kept in {WEIGHTS}")


if __name__ == "__main__":
    main()
