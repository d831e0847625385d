"""Errors as answers: each says what was wrong, as `{"detail": "…"}`."""

from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from bench.lab.api.network import NotJoined
from bench.lab.errors import (
    BadInput,
    IdTaken,
    LabError,
    LoadFailed,
    NoSuchExperiment,
    NoSuchHost,
    QueueFull,
    StoreFailed,
    WrongState,
)
from myxo.rtable import RtableFailed
from overlay.errors import MyxoError

RETRY_AFTER_S = 5

STATUSES: dict[type[MyxoError], HTTPStatus] = {
    IdTaken: HTTPStatus.CONFLICT,
    BadInput: HTTPStatus.BAD_REQUEST,
    NoSuchExperiment: HTTPStatus.NOT_FOUND,
    WrongState: HTTPStatus.CONFLICT,
    QueueFull: HTTPStatus.SERVICE_UNAVAILABLE,
    StoreFailed: HTTPStatus.SERVICE_UNAVAILABLE,
    NotJoined: HTTPStatus.SERVICE_UNAVAILABLE,
    NoSuchHost: HTTPStatus.SERVICE_UNAVAILABLE,
    LoadFailed: HTTPStatus.BAD_GATEWAY,
    RtableFailed: HTTPStatus.BAD_REQUEST,
}


class NotFound(LabError):
    """There is nothing at this address."""


STATUSES[NotFound] = HTTPStatus.NOT_FOUND


def explain_errors(app: FastAPI) -> None:
    """Have the app answer errors that a person can act on with their reason."""
    app.add_exception_handler(MyxoError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)


async def _refused(request: Request, exc: Exception) -> JSONResponse:
    del request
    kinds = (kind for kind in type(exc).__mro__ if kind in STATUSES)
    status = next((STATUSES[kind] for kind in kinds), HTTPStatus.BAD_GATEWAY)
    again = {"Retry-After": str(RETRY_AFTER_S)} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
    return JSONResponse({"detail": str(exc)}, status, again)


async def _invalid(request: Request, exc: Exception) -> JSONResponse:
    del request
    assert isinstance(exc, RequestValidationError)  # noqa: S101  (by whom this is registered)
    reasons = [f"{error['loc'][-1]}: {error['msg']}" for error in exc.errors()]
    return JSONResponse({"detail": "; ".join(reasons)}, HTTPStatus.BAD_REQUEST)
