#!/usr/bin/env python3
"""A dialog that recommends films: a page, and what it asks."""

from dialogue import answered
from films import FILMS, TITLES, made_ratings
from flask import Flask, request
from page import PAGE
from recommending import Recommender

app = Flask(__name__)
recommender = Recommender(made_ratings())


@app.route("/")
def page() -> str:
    return PAGE


@app.route("/agent", methods=["GET", "POST"])
def agent() -> dict[str, str]:
    text, so_far = request.values["chatText"], request.values.get("soFar", "")
    response, so_far = answered(text, so_far, TITLES, recommender)
    return {"response": response, "soFar": so_far}


@app.route("/films")
def films() -> list[dict[str, object]]:
    return [{"title": title, "year": year, "kinds": kinds} for title, year, kinds in FILMS]


if __name__ == "__main__":
    app.run(port=8080)
