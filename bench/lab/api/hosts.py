"""Routes of what is in the network: load hosts, services, routing tables."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Body
from pydantic import BaseModel, ConfigDict, Field

from bench.lab.api.answers import NotFound
from bench.lab.api.context import Context, InContext
from bench.lab.errors import NoSuchHost
from myxo.rtable import Answer, as_text

MAX_TARGETS = 1000

Target = Annotated[str, Field(min_length=1, max_length=300)]

router = APIRouter(tags=["network"])


class Route(BaseModel):
    """Where requests for a service go, and in which proportion; equal parts without weights."""

    model_config = ConfigDict(extra="forbid")

    hosts: Annotated[list[Target], Field(min_length=1, max_length=MAX_TARGETS)]
    weights: Annotated[list[float], Field(max_length=MAX_TARGETS)] | None = None


@router.get("/hosts")
@router.get("/worker")
async def hosts(context: InContext) -> Sequence[str]:
    """List the load hosts that are there now."""
    return await context.hosts()


@router.get("/services")
async def services(context: InContext) -> list[dict[str, str]]:
    """List the services that load can be sent to."""
    return [{"name": name} for name in await context.network.services()]


@router.get("/routes")
async def routes(context: InContext) -> list[dict[str, Any]]:
    """Return the routing table of the load hosts' proxies; the first host's is shown."""
    return [dict(record) for record in await _records(context)]


@router.get("/routes/{service}")
async def route(context: InContext, service: str) -> dict[str, Any]:
    """Return where requests for a service are sent; 404 if the network decides."""
    return await _record(context, service)


@router.put("/routes/{service}")
async def set_route(
    context: InContext, service: str, wanted: Annotated[Route, Body()]
) -> dict[str, Any]:
    """Have the proxies of all load hosts send requests for a service there."""
    answers = await _do(context, "set", service=service, hosts=wanted.hosts, weights=wanted.weights)
    record: dict[str, Any] = answers[0]["record"]
    return record


@router.delete("/routes/{service}")
async def remove_route(context: InContext, service: str) -> str:
    """Let the network decide again where requests for a service go; 404 if it does already."""
    await _record(context, service)
    await _do(context, "unset", service=service)
    return service


@router.delete("/routes")
async def clear_routes(context: InContext) -> int:
    """Let the network decide everything again; return how many services that concerns."""
    answers = await _do(context, "clear")
    return int(answers[0]["unset"])


async def _record(context: Context, service: str) -> dict[str, Any]:
    for record in await _records(context):
        if record["service"] == service:
            return dict(record)
    raise NotFound(f"the routing table has no service {service!r}")


async def _records(context: Context) -> Sequence[Mapping[str, Any]]:
    answers = await _do(context, "list")
    records: Sequence[Mapping[str, Any]] = answers[0]["records"]
    return records


async def _do(context: Context, name: str, **given: Any) -> Sequence[Answer]:
    """Have the proxies do a command.

    Raises:
        NoSuchHost: there is no load host, whose proxy it would be.
        RtableFailed: one refuses.
    """
    answers = await context.network.route({"do": name, **given})
    if not answers:
        raise NoSuchHost("no load host has a proxy to ask")
    list(as_text(name, answers))  # raises where one refused
    return answers
