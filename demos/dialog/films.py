"""Films, and how some hundred viewers would rate them: made up, by a seed, from what films have."""

import numpy as np
from numpy.typing import NDArray

KINDS = ("science fiction", "horror", "romance", "comedy", "crime", "adventure", "family", "war")

FILMS = (
    ("Alien", 1979, "science fiction, horror"),
    ("Blade Runner", 1982, "science fiction, crime"),
    ("2001: A Space Odyssey", 1968, "science fiction, adventure"),
    ("Solaris", 1972, "science fiction, romance"),
    ("The Thing", 1982, "science fiction, horror"),
    ("Back to the Future", 1985, "science fiction, comedy, adventure"),
    ("Star Wars", 1977, "science fiction, adventure"),
    ("Psycho", 1960, "horror, crime"),
    ("The Shining", 1980, "horror"),
    ("Nosferatu", 1922, "horror"),
    ("The Birds", 1963, "horror"),
    ("Get Out", 2017, "horror, crime"),
    ("Casablanca", 1942, "romance, war"),
    ("Roman Holiday", 1953, "romance, comedy"),
    ("Before Sunrise", 1995, "romance"),
    ("In the Mood for Love", 2000, "romance"),
    ("Titanic", 1997, "romance, adventure"),
    ("Amelie", 2001, "romance, comedy"),
    ("Some Like It Hot", 1959, "comedy, romance"),
    ("Modern Times", 1936, "comedy"),
    ("The Big Lebowski", 1998, "comedy, crime"),
    ("Groundhog Day", 1993, "comedy, romance"),
    ("Playtime", 1967, "comedy"),
    ("Monty Python and the Holy Grail", 1975, "comedy, adventure"),
    ("The Godfather", 1972, "crime"),
    ("Pulp Fiction", 1994, "crime, comedy"),
    ("Chinatown", 1974, "crime"),
    ("Rear Window", 1954, "crime, romance"),
    ("Heat", 1995, "crime"),
    ("M", 1931, "crime, horror"),
    ("Lawrence of Arabia", 1962, "adventure, war"),
    ("Jaws", 1975, "adventure, horror"),
    ("Seven Samurai", 1954, "adventure, war"),
    ("Raiders of the Lost Ark", 1981, "adventure, comedy"),
    ("Spirited Away", 2001, "family, adventure"),
    ("Toy Story", 1995, "family, comedy"),
    ("The Wizard of Oz", 1939, "family, adventure"),
    ("My Neighbour Totoro", 1988, "family"),
    ("Bambi", 1942, "family"),
    ("Apocalypse Now", 1979, "war"),
    ("Paths of Glory", 1957, "war"),
    ("Come and See", 1985, "war, horror"),
)
"""Title, year and kinds."""

TITLES = tuple(title for title, _, _ in FILMS)


def made_ratings(viewers: int = 400, seen: float = 0.35, seed: int = 7) -> NDArray[np.float64]:
    """Return a row a viewer and a column a film: 1 to 5 stars, or nan where it was not seen."""
    random = np.random.default_rng(seed)
    has = np.array([[kind in kinds.split(", ") for kind in KINDS] for _, _, kinds in FILMS])
    tastes = random.normal(0, 1.3, (viewers, len(KINDS)))
    liking = tastes @ (has / has.sum(axis=1, keepdims=True)).T
    stars = np.clip(np.rint(3 + liking + random.normal(0, 0.4, liking.shape)), 1, 5)
    return np.where(random.random(liking.shape) < seen, stars, np.nan)
