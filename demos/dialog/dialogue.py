"""The dialog: what is said about films becomes ratings, and those become a recommendation.

What was said so far is in a short text that the client keeps and sends with its next words, so any
instance can answer: `4+ 17- 9?` is film 4 liked, 17 not, and 9 recommended.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Protocol

STARS = {"+": 5.0, "-": 1.0}
MOST = 200
"""Films that a dialog remembers."""

_NOT = re.compile(
    r"\b(not|no|never|hate[ds]?|dislike[ds]?|boring|bad|awful|terrible|cannot stand)\b|n't\b"
)
_MORE = re.compile(r"\b(another|else|more|seen|recommend|next|suggest)\b")
_SAID = re.compile(r"(\d{1,4})([-+?])")


class Recommender(Protocol):
    """Orders films for a viewer."""

    def best(self, said: Mapping[int, float], but: frozenset[int]) -> list[int]:
        """Return films, the best first, without some."""
        ...


def answered(
    text: str, so_far: str, titles: Sequence[str], recommender: Recommender
) -> tuple[str, str]:
    """Return the answer to `text`, and what was said so far, with it.

    Args:
        text: of the person.
        so_far: what the last answer came with; "" at the beginning.
        titles: of all films.
        recommender: knows which are alike.
    """
    said = {int(n): mark for n, mark in _SAID.findall(so_far) if int(n) < len(titles)}
    heard = opinions(text, titles)
    said |= heard
    ratings = {film: STARS[mark] for film, mark in said.items() if mark in STARS}
    if not ratings or not (heard or _MORE.search(text.lower())):
        return f"Tell me of a film that you like, or not: {titles[0]}, {titles[12]}?", written(said)
    best = recommender.best(ratings, frozenset(said))
    if not best:
        return "Now you know all the films that I do.", written(said)
    said[best[0]] = "?"
    return f"{_echoed(heard, titles)}How about {titles[best[0]]}?", written(said)


def opinions(text: str, titles: Sequence[str]) -> dict[int, str]:
    """Return the films that a text names, each with + or - for how it speaks of them."""
    found: dict[int, str] = {}
    for clause in re.split(r"[.;!?]|\bbut\b", text):
        low = f" {clause.lower()} "
        for film in sorted(range(len(titles)), key=lambda film: -len(titles[film])):
            name = re.compile(rf"(?<![\w'’]){re.escape(titles[film].lower())}(?!\w)")
            if name.search(low):
                low = name.sub(" ", low)
                found[film] = ""
        mark = "-" if _NOT.search(low) else "+"
        found = {film: known or mark for film, known in found.items()}
    return found


def written(said: Mapping[int, str]) -> str:
    """Return what was said as a client keeps it."""
    return " ".join(f"{film}{mark}" for film, mark in list(said.items())[-MOST:])


def _echoed(heard: Mapping[int, str], titles: Sequence[str]) -> str:
    kinds = {"+": "you like ", "-": "you do not like "}
    parts = [kinds[mark] + titles[film] for film, mark in heard.items()]
    return f"So {', and '.join(parts)}. " if parts else ""
