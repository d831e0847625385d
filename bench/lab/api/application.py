"""The API and the page as one ASGI application, for any server and any number of its workers.

All that lasts is in the database and in the state directory; each worker opens both for itself, and
is in the network for itself.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.staticfiles import StaticFiles
from starlette.types import ASGIApp

from bench.lab.api import apps, experiments, hosts, policies, series
from bench.lab.api.answers import explain_errors
from bench.lab.api.context import Context
from bench.lab.api.guard import Guard
from bench.lab.api.network import LabNetwork
from bench.lab.api.settings import ApiSettings
from bench.lab.experiments.experiments import Experiments
from bench.lab.experiments.seen import SeenRequests
from bench.lab.experiments.store import open_store

PAGE = Path(__file__).resolve().parents[1] / "page"

DESCRIPTION = """Submit experiments, watch them, compare what came of them, and take the data away.

Errors are `{"detail": "what was wrong"}`: 400 for what cannot be read, 401 without the token, 403
for other web pages, 404, 409 where it is too late or too early for that, 413, 503 where there is no
load host, no network or no database.
"""

OpenNetwork = Callable[[ApiSettings], AbstractAsyncContextManager[LabNetwork]]


def make_app(settings: ApiSettings, open_network: OpenNetwork) -> ASGIApp:
    """Return the application.

    Args:
        settings: which database, and which token is asked for.
        open_network: opens the network that experiments run on.

    Raises:
        SettingsInvalid: the token cannot be read.
    """
    token = settings.secret()

    @asynccontextmanager
    async def opened(app: FastAPI) -> AsyncIterator[None]:
        async with (
            open_store(settings.database_url()) as store,
            open_network(settings) as network,
        ):
            seen = SeenRequests()
            app.state.context = Context(
                store,
                Experiments(store, seen=seen),
                seen,
                network,
                settings.state_dir,
                guarded=bool(token),
            )
            yield

    app = FastAPI(
        title="Myxo lab",
        version=version("myxo"),
        description=DESCRIPTION,
        lifespan=opened,
        openapi_url="/api/openapi.json",
        docs_url=None,  # it would load its scripts from another host
        redoc_url=None,
    )
    explain_errors(app)
    api = APIRouter(prefix="/api")
    for part in (experiments, series, hosts, policies, apps):
        api.include_router(part.router)
    api.add_api_route(
        "", lambda: _listed(app), tags=["api"], name="routes", description=_listed.__doc__
    )
    app.include_router(api)
    app.mount("/", StaticFiles(directory=PAGE, html=True))
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return Guard(app, token)


def _listed(app: FastAPI) -> list[dict[str, Any]]:
    """List the routes of this API."""
    paths: dict[str, dict[str, Any]] = app.openapi()["paths"]
    return [
        {"uri": uri, "methods": sorted(method.upper() for method in paths[uri])}
        for uri in sorted(paths)
    ]


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        made = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        made.setdefault("components", {}).setdefault("schemas", {}).update(experiments.SCHEMAS)
        app.openapi_schema = made
    return app.openapi_schema
