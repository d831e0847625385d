"""The web demo's data service: keeps rows, oldest first, in the memory of its only instance.

Usage: python3 -m demos.web.data.server PORT [ADDRESS]
"""

from collections import deque
from http import HTTPStatus
from typing import Any

from demos.serving import Reply, Request, as_json, here, not_found, serve

MAX_ROWS = 1000

rows: deque[Any] = deque(maxlen=MAX_ROWS)


def answer(request: Request) -> Reply:
    match request.method, request.path:
        case "GET", "/rows":
            return as_json({"rows": list(rows), "by": [here()]})
        case "POST", "/rows":
            row = request.json()
            rows.append(row)
            return as_json({"row": row, "by": [here()]}, HTTPStatus.CREATED)
        case _:
            raise not_found(request, "GET /rows", "POST /rows")


if __name__ == "__main__":
    serve(answer)
