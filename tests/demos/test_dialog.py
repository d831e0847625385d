"""The dialog: its parts, the monolith beside the port, and the port in a browser."""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from bench.network import environment
from bench.puma_program import puma_program
from demos.dialog.dialogue import answered, opinions, written
from demos.dialog.films import FILMS, KINDS, TITLES, made_ratings
from demos.dialog.recommending import Recommender

DIALOG = Path(__file__).resolve().parents[2] / "demos" / "dialog"
FEWEST_OF_THE_PAPER = 15

ALIEN, SHINING, CASABLANCA = (
    TITLES.index(title) for title in ("Alien", "The Shining", "Casablanca")
)


@pytest.fixture(scope="module")
def recommender() -> Recommender:
    return Recommender(made_ratings())


def test_what_viewers_did_not_rate_is_foretold_better_than_by_the_mean() -> None:
    every, some = made_ratings(seen=1.0), made_ratings()
    hidden = np.isnan(some[:100])
    model, means = Recommender(some), np.nanmean(some, axis=0)
    foretold = np.array(
        [
            model.expected({int(f): row[f] for f in np.flatnonzero(~np.isnan(row))})
            for row in some[:100]
        ]
    )
    error = float(np.sqrt(np.mean((foretold - every[:100])[hidden] ** 2)))
    of_means = float(np.sqrt(np.mean((means - every[:100])[hidden] ** 2)))
    assert error < 0.8 * of_means


@pytest.mark.parametrize("kind", KINDS)
def test_who_likes_a_kind_of_films_is_told_of_more_of_it(
    recommender: Recommender, kind: str
) -> None:
    of_kind = {film for film, (_, _, kinds) in enumerate(FILMS) if kind in kinds.split(", ")}
    said = {
        film: 5.0 if film in of_kind else 1.0 for film in (*list(of_kind)[:2], *range(0, 42, 6))
    }
    best = recommender.best(said, frozenset(said))[:3]
    assert of_kind & set(best)
    assert not set(best) & set(said)


@pytest.mark.parametrize(
    ("text", "heard"),
    [
        ("I loved ALIEN!", {ALIEN: "+"}),
        ("alien was boring", {ALIEN: "-"}),
        ("I didn't like The Shining but Casablanca is great", {SHINING: "-", CASABLANCA: "+"}),
        ("I like Casablanca and Alien", {ALIEN: "+", CASABLANCA: "+"}),
        ("aliens", {}),
        ("M", {TITLES.index("M"): "+"}),
        ("I'm fine", {}),
        ("", {}),
    ],
)
def test_what_is_said_of_films_is_understood(text: str, heard: dict[int, str]) -> None:
    assert opinions(text, TITLES) == heard


def test_a_dialog_goes_on_at_another_instance_by_what_the_client_keeps(
    recommender: Recommender,
) -> None:
    first, so_far = answered("I loved Alien", "", TITLES, recommender)
    second, later = answered("another", so_far, TITLES, Recommender(made_ratings()))
    assert first.startswith("So you like Alien. How about ")
    assert second.startswith("How about ")
    assert second not in first
    assert later.startswith(so_far)


@pytest.mark.parametrize("kept", ["", "999+", "x", "1", "5? " * 1000, "0+" * 1000])
def test_what_a_client_makes_up_harms_nothing(recommender: Recommender, kept: str) -> None:
    text, so_far = answered("hello", kept, TITLES, recommender)
    assert "?" in text
    assert len(so_far) < 2000


def test_all_films_are_known_at_the_end(recommender: Recommender) -> None:
    said = written(dict.fromkeys(range(len(TITLES)), "+"))
    assert "all the films" in answered("more", said, TITLES, recommender)[0]


def test_fewer_lines_are_altered_than_the_paper_says() -> None:
    monolith, ported = (
        (DIALOG / name).read_text().splitlines() for name in ("monolith.py", "ported.py")
    )
    altered = [line for line in difflib.ndiff(monolith, ported) if line.startswith(("+ ", "- "))]
    assert 0 < len(altered) < FEWEST_OF_THE_PAPER, "\n".join(altered)


# both, as their user starts them


@pytest.fixture(scope="module")
def ported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("dialog")
    with puma_program(DIALOG / "ported.py", environment(folder), folder) as program:
        yield f"http://localhost:{program.port}"
        assert program.started.interrupt() == 0, program.started.printed()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_port_answers_as_the_monolith_does(
    ported: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(DIALOG)
    application = __import__("monolith").app.test_client()
    so_far = ""
    for text in ("hello", "I loved Alien", "another", "The Shining is awful", "more"):
        said = {"chatText": text, "soFar": so_far}
        answer = httpx.post(f"{ported}/agent", data=said, timeout=120).json()
        assert answer == application.post("/agent", data=said).json
        so_far = answer["soFar"]
    assert httpx.get(f"{ported}/films", timeout=120).json() == application.get("/films").json
    assert httpx.get(f"{ported}/", timeout=120).text == application.get("/").text


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_browser_talks_to_it(ported: str, browser: Any) -> None:
    browser.open(f"{ported}/")
    for count, words in enumerate(("I loved Alien", "another", "Titanic was boring"), 1):
        browser.type("#say input", words)
        browser.click("#say button")
        shown = browser.await_texts("#talk li.agent", count)
        assert "How about" in shown[-1]
    assert browser.texts("#talk li.me")[0] == "I loved Alien"
    assert len(set(shown)) == 3
    assert not browser.texts("#talk li.error")
