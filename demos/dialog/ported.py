#!/usr/bin/env python3
"""A dialog that recommends films: a page, and what it asks."""

from dialogue import answered
from films import FILMS, TITLES, made_ratings
from page import PAGE
from recommending import Recommender

from myxo.puma import puma_config, puma_service, puma_start, request

recommender = Recommender(made_ratings())


def page() -> str:
    return PAGE


def agent() -> dict[str, str]:
    text, so_far = request.values["chatText"], request.values.get("soFar", "")
    response, so_far = answered(text, so_far, TITLES, recommender)
    return {"response": response, "soFar": so_far}


def films() -> list[dict[str, object]]:
    return [{"title": title, "year": year, "kinds": kinds} for title, year, kinds in FILMS]


if __name__ == "__main__":
    puma_config({"puma_services": {"page": "/", "agent": "/agent", "films": "/films"}})
    puma_service({"page": page, "agent": agent, "films": films})
    puma_start()
