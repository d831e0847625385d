"""The web demo's API: what a sighting is, and what is to be said of all of them.

It keeps nothing itself: the rows are in the data service, which the first request here starts.

Usage: python3 -m demos.web.api.server PORT [ADDRESS]
"""

from collections import Counter
from http import HTTPStatus
from typing import Any

from demos.serving import Refused, Reply, Request, as_json, ask, here, not_found, serve

MAX_TEXT = 100
MAX_COUNT = 10_000


def checked(said: Any) -> dict[str, Any]:
    """Return a sighting if `said` is one.

    Raises:
        Refused: saying which field is wrong and what may be there.
    """
    fields = said if isinstance(said, dict) else {}
    sighting: dict[str, Any] = {}
    for name in ("species", "place"):
        text = " ".join(str(fields.get(name, "")).split())
        if not 1 <= len(text) <= MAX_TEXT:
            raise Refused(HTTPStatus.BAD_REQUEST, f"{name} must have 1 to {MAX_TEXT} signs")
        sighting[name] = text
    count = str(fields.get("count", ""))
    if not (count.isascii() and count.isdecimal() and 1 <= int(count[:9]) <= MAX_COUNT):
        text = f"count must be a whole number from 1 to {MAX_COUNT}, not {count[:40]!r}"
        raise Refused(HTTPStatus.BAD_REQUEST, text)
    return sighting | {"count": int(count)}


def answer(request: Request) -> Reply:
    match request.method, request.path:
        case "GET", "/sightings":
            found = ask("web-data", "/rows")
            totals: Counter[str] = Counter()
            for row in found["rows"]:
                totals[row["species"]] += row["count"]
            return as_json(
                {
                    "sightings": found["rows"][::-1],
                    "totals": dict(totals.most_common()),
                    "by": [here(), *found["by"]],
                }
            )
        case "POST", "/sightings":
            kept = ask("web-data", "/rows", checked(request.json()))
            body = {"sighting": kept["row"], "by": [here(), *kept["by"]]}
            return as_json(body, HTTPStatus.CREATED)
        case _:
            raise not_found(request, "GET /sightings", "POST /sightings")


if __name__ == "__main__":
    serve(answer)
