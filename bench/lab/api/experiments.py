"""Routes of experiments: submit, list, show, compare, cancel, delete."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from bench.lab.api import reading
from bench.lab.api.context import Context, InContext
from bench.lab.errors import NoSuchHost
from bench.lab.experiments import showing
from bench.lab.experiments.experiments import Account
from bench.lab.experiments.records import Experiment
from bench.lab.experiments.status import Status
from bench.lab.experiments.submission import Submission

MAX_COMPARED = 8
MAX_PAGE = 1000

EXAMPLE = {
    "experiment": {"name": "my_experiment", "creator": "research star"},
    "configuration": {
        "duration": "10s",
        "interval": "2s",
        "workloads": [
            {"service": "alexnet", "ticks": [1, 2, 3, 1, 1], "clients_per_host": 2},
        ],
    },
}

_SCHEMA = Submission.model_json_schema(ref_template="#/components/schemas/{model}")
SCHEMAS = _SCHEMA.pop("$defs")
"""What the schema of a submission refers to."""

_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": _SCHEMA,
                "example": EXAMPLE,
            }
        },
    }
}

router = APIRouter(tags=["experiments"])


@router.get("/experiments")
async def experiments(
    context: InContext,
    response: Response,
    status: Annotated[list[Status] | None, Query(description="Only those in these states.")] = None,
    limit: Annotated[int | None, Query(ge=1, le=MAX_PAGE)] = None,
    offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
    newest: Annotated[bool, Query(description="The newest first, not the oldest.")] = False,
) -> list[dict[str, Any]]:
    """List experiments; `X-Total-Count` says how many there are beside those in the answer."""
    found, count = await context.store.read(
        reading.page, status or [], limit, offset, newest=newest
    )
    response.headers["X-Total-Count"] = str(count)
    return [as_json(experiment) for experiment in found]


@router.post("/experiments", status_code=HTTPStatus.CREATED, openapi_extra=_BODY)
async def submit(context: InContext, request: Request, response: Response) -> str:
    """Queue an experiment, and return its id; 503 if there is no load host to run it."""
    body = await request.body()
    await _check_hosts(context)
    experiment = await context.experiments.submit(body)
    response.headers["Location"] = f"/api/experiments/{experiment.exp_id}"
    return experiment.exp_id


@router.get("/experiments/{exp_id}")
async def show(context: InContext, exp_id: str) -> dict[str, Any]:
    """Return all that is said of an experiment: what it was to do, and its figures."""
    return as_json(await context.experiments.show(exp_id))


@router.delete("/experiments/{exp_id}")
async def remove(context: InContext, exp_id: str) -> str:
    """Cancel an experiment that waits or runs; delete one that has ended, with all its data."""
    experiment = await context.experiments.get(exp_id)
    if experiment.status in {Status.QUEUED, Status.RUNNING}:
        await context.experiments.cancel(exp_id)
    else:
        await context.experiments.delete(exp_id)
    return exp_id


@router.get("/compare")
async def compare(
    context: InContext,
    exp_ids: Annotated[list[str], Query(alias="id", min_length=1, max_length=MAX_COMPARED)],
) -> list[dict[str, Any]]:
    """Return all that is said of several experiments: `?id=A&id=B`."""
    return [as_json(account) for account in await context.experiments.compare(exp_ids)]


def as_json(value: Experiment | Account) -> dict[str, Any]:
    """Return an experiment with its id under the name that Galileo has for it, too."""
    said: Mapping[str, Any] = showing.as_json(value)
    return {"id": said["exp_id"], **said}


async def _check_hosts(context: Context) -> None:
    """See that somebody could run an experiment, as far as this API can know.

    Raises:
        NoSuchHost: the network has no load host.
        NotJoined: the network does not answer.
    """
    if context.network.named and not await context.hosts():
        raise NoSuchHost(
            "there is no load host to run experiments; start one: `myxo lab host`, or "
            "`myxo lab experimentd --standalone`, which sends the load itself"
        )
