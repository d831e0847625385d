"""Matrix factorisation: who rates alike is alike, and so is what is rated alike.

The table of ratings, mostly empty, is taken for the product of a narrow one of viewers and one of
films (Koren, Bell and Volinsky 2009). Alternating least squares with a ridge: with the films'
factors given, each viewer's are a small linear problem, and the other way round. A new viewer's
come from a few ratings by the same problem, so nothing is trained anew during a dialog.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

RANK = 8
RIDGE = 1.5
ROUNDS = 12

Table = NDArray[np.float64]


class Recommender:
    """What viewers would say of films.

    Args:
        ratings: a row a viewer, a column a film, nan where there is none.
    """

    def __init__(self, ratings: Table, seed: int = 1) -> None:
        known = ~np.isnan(ratings)
        self._means = np.nanmean(ratings, axis=0)
        rest = np.where(known, ratings - self._means, 0.0)
        random = np.random.default_rng(seed)
        self._films = random.normal(0, 0.1, (ratings.shape[1], RANK))
        for _ in range(ROUNDS):
            viewers = _solved(rest, known, self._films)
            self._films = _solved(rest.T, known.T, viewers)

    def expected(self, said: Mapping[int, float]) -> Table:
        """Return the stars that a viewer would give each film, from those of some films."""
        films = list(said)
        known = np.zeros((1, len(self._means)), dtype=bool)
        rest = np.zeros(known.shape)
        known[0, films] = True
        rest[0, films] = [said[film] - self._means[film] for film in films]
        expected: Table = self._means + self._films @ _solved(rest, known, self._films)[0]
        return expected

    def best(self, said: Mapping[int, float], but: frozenset[int]) -> list[int]:
        """Return the films by what a viewer would give them, the best first, without some."""
        order = np.argsort(-self.expected(said), kind="stable")
        return [int(film) for film in order if int(film) not in but]


def _solved(rest: Table, known: NDArray[np.bool_], factors: Table) -> Table:
    """Return for each row the factors that explain what is known in it best."""
    ridge = RIDGE * np.eye(factors.shape[1])
    return np.array(
        [
            np.linalg.solve(factors[has].T @ factors[has] + ridge, factors[has].T @ row[has])
            for row, has in zip(rest, known, strict=True)
        ]
    )
