"""The web demo's front: one page with the list of sightings and a form for another one.

The page works without scripts. At its foot it says which instances it came from.

Usage: python3 -m demos.web.front.server PORT [ADDRESS]
"""

from html import escape
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

from demos.serving import Reply, Request, ask, here, not_found, serve

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Slime moulds seen</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 40em; margin: 2em auto; padding: 0 1em }}
table {{ border-collapse: collapse; width: 100% }}
td, th {{ text-align: left; padding: .2em .5em; border-bottom: 1px solid #ddd }}
input {{ font: inherit; width: 10em }} footer {{ color: #777; font-size: .8em }}
</style>
<h1>Slime moulds seen</h1>
<form method="post" action="./">
<input name="species" placeholder="Physarum polycephalum" required>
<input name="place" placeholder="where" required>
<input name="count" type="number" min="1" max="10000" value="1" required>
<button>seen</button>
</form>
<table>
<tr><th>species<th>place<th>count
{rows}
</table>
<p>{totals}</p>
<footer>from {by}</footer>
</html>
"""


def page(found: dict[str, Any]) -> str:
    """Return the page of what the API said."""
    rows = "\n".join(
        f"<tr><td>{escape(one['species'])}<td>{escape(one['place'])}<td>{one['count']}"
        for one in found["sightings"]
    )
    totals = ", ".join(f"{count} × {escape(name)}" for name, count in found["totals"].items())
    by = " ← ".join(escape(instance) for instance in [here(), *found["by"]])
    return PAGE.format(rows=rows, totals=totals or "None so far.", by=by)


def answer(request: Request) -> Reply:
    match request.method, request.path:
        case "GET", "/":
            text = page(ask("web-api", "/sightings"))
            return Reply(text, content_type="text/html; charset=utf-8")
        case "POST", "/":
            ask("web-api", "/sightings", dict(parse_qsl(request.body.decode(errors="replace"))))
            # The browser asks for the page again, and a reload of it sends nothing twice.
            return Reply("", HTTPStatus.SEE_OTHER, headers={"Location": "./"})
        case _:
            raise not_found(request, "GET /", "POST /")


if __name__ == "__main__":
    serve(answer)
