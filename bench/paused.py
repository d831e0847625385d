"""From a paused instance to the first byte of an answer.

Some services run and are left alone until the engine says that their containers are paused; a
second later one after the other is asked. Each is so resumed by its own request, and pauses again.
"""

from collections.abc import Sequence
from functools import partial

import docker
import trio

from bench.client import OK, AnswerFailed, ask
from bench.network import Network
from bench.registrar import Registrar
from overlay.names import ServiceName, service_name
from overlay.spec import ServiceSpec

SERVICES = 10
IDLE_PAUSE_S = 0.5
PAUSED_S = 1.0
"""How long each has been paused at least when it is asked."""

PAUSE_TIMEOUT_S = 15.0
_STEP_S = 0.05
_LABEL = "myxo.service"


async def first_bytes(
    running: Network,
    registrar: Registrar,
    client: docker.APIClient,
    spec: ServiceSpec,
    *,
    prefix: str,
    samples: int,
    budget_s: float,
) -> list[float]:
    """Return the seconds to the first byte from paused instances; fewer if time is up.

    Args:
        running: the network.
        registrar: adds the services, and deletes them at the end.
        client: of the engine that has the containers.
        spec: what is run.
        prefix: of the services' names.
        samples: how many; a multiple of `SERVICES`.
        budget_s: after which no further round begins.

    Raises:
        AnswerFailed: nothing was paused in time, or a request was not answered.
        NetworkFailed: the registry did not take a service.
    """
    names = [service_name(f"{prefix}-paused-{n}") for n in range(SERVICES)]
    pausing = spec.model_copy(update={"idle_pause_s": IDLE_PAUSE_S})
    for name in names:
        await registrar.add(name, pausing)
    try:
        for name in names:
            await _ask(running, name)
        found: list[float] = []
        end = trio.current_time() + budget_s
        while len(found) < samples and not (found and trio.current_time() > end):
            await _until_paused(client, names)
            await trio.sleep(PAUSED_S)
            found += [await _ask(running, name) for name in names]
    finally:
        with trio.CancelScope(shield=True):
            for name in names:
                await registrar.delete(name)
    return found


async def _ask(running: Network, name: ServiceName) -> float:
    answer = await trio.to_thread.run_sync(ask, running.url(name))
    if answer.status != OK:
        raise AnswerFailed(f"{name} was answered {answer.status}: {answer.text}")
    return answer.first_byte_s


async def _until_paused(client: docker.APIClient, names: Sequence[ServiceName]) -> None:
    look = partial(client.containers, filters={"status": "paused", "label": _LABEL})
    deadline = trio.current_time() + PAUSE_TIMEOUT_S
    while True:
        paused = {c["Labels"][_LABEL] for c in await trio.to_thread.run_sync(look)}
        if waited_for := set(names) - paused:
            if trio.current_time() > deadline:
                raise AnswerFailed(f"not paused after {PAUSE_TIMEOUT_S:g} s: {sorted(waited_for)}")
            await trio.sleep(_STEP_S)
        else:
            return
