"""Tells shapes on images, with two models, at the paths that mxnet-model-server has.

    GET  /ping
    GET  /models
    POST /predictions/MODEL    the bytes of an image

Usage: python -m demos.classify.service PORT [ADDRESS]
"""

import os
from http import HTTPStatus

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: an instance has one core

from demos.classify.models import MADE, model
from demos.classify.pictures import NoImage, read
from demos.serving import Refused, Reply, Request, as_json, not_found, serve

PREDICTIONS = "/predictions/"

models = {name: model(name) for name in MADE}


def answer(request: Request) -> Reply:
    match request.method, request.path:
        case "GET", "/ping":
            return as_json({"status": "Healthy!"})
        case "GET", "/models":
            return as_json({"models": [{"modelName": name} for name in models]})
        case "POST", path if path.startswith(PREDICTIONS):
            return as_json(_told(path.removeprefix(PREDICTIONS), request.body))
        case _:
            raise not_found(request, "GET /ping", "GET /models", "POST /predictions/MODEL")


def _told(name: str, body: bytes) -> list[dict[str, object]]:
    if name not in models:
        text = f"there is no model {name!r}, but {' and '.join(models)}"
        raise Refused(HTTPStatus.NOT_FOUND, text)
    try:
        image = read(body)
    except NoImage as error:
        raise Refused(HTTPStatus.BAD_REQUEST, str(error)) from error
    found = models[name].told(image)
    return [{"class": shape, "probability": round(share, 6)} for shape, share in found]


if __name__ == "__main__":
    serve(answer)
