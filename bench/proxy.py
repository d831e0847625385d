"""What the proxy costs on the way, beside Envoy, nginx, HAProxy and Traefik as the same hop.

Myxo's is measured with both of its engines; each has one worker. One server in C is asked directly
and through each of them: at fixed rates by a client that sends whatever the answers do, and for the
most by wrk; then for large bodies. Besides, what an idle connection takes, what fails when one of
three instances is killed, and the same from one machine to another. `--quick` leaves HAProxy and
Traefik out.
"""

import secrets
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import trio

from bench import (
    proxy_abuse,
    proxy_bodies,
    proxy_far_bodies,
    proxy_idle,
    proxy_kill,
    proxy_rates,
    proxy_two_hosts,
)
from bench.client import ask_until_ok
from bench.command import Measure, Report, run
from bench.engine import envoy_engine
from bench.hops import ALL_HOPS, QUICK_HOPS, Hop
from bench.native import compiled
from bench.network import Network, network, open_registrar
from bench.proxy_rates import DIRECT, ENGINE, Target
from overlay.names import ServiceName, service_name
from overlay.spec import ServiceSpec


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to measure.

    Attributes:
        rounds: of a block for each hop, of small answers.
        block_s: at a fixed rate.
        peak_s: of wrk, which takes whole seconds.
        body_rounds: of large bodies.
        kills: of one instance of three.
    """

    rounds: int
    block_s: float
    peak_s: float
    body_rounds: int
    kills: int
    hops: Mapping[str, Hop]


FULL = Plan(rounds=5, block_s=5.0, peak_s=5.0, body_rounds=5, kills=10, hops=ALL_HOPS)
QUICK = Plan(rounds=2, block_s=0.5, peak_s=1.0, body_rounds=1, kills=1, hops=QUICK_HOPS)


def measure(quick: bool) -> Report:
    """Return all figures of this benchmark.

    Raises:
        AnswerFailed, HopMissing, LabFailed, NetworkFailed: it could not be measured.
    """
    plan = QUICK if quick else FULL
    with network("process") as running:
        parts = [_warm(running, plan, quick), _bodies(running, plan, quick), _kill(running, plan)]
    parts.append(
        proxy_two_hosts.measure(
            quick=quick, rounds=plan.rounds, block_s=plan.block_s, peak_s=plan.peak_s
        )
    )
    parts.append(proxy_far_bodies.measure(quick=quick))
    return _joined(parts)


def _joined(parts: Iterable[tuple[dict[str, Any], str]]) -> Report:
    figures: dict[str, Any] = {}
    for found, _ in parts:
        figures |= found
    return Report(figures, "\n\n".join(text for _, text in parts))


def _alone(measured: Callable[[Target, bool], tuple[dict[str, Any], str]]) -> Measure:
    """Return how a part is measured alone, with no other hop beside."""

    def measure_part(quick: bool) -> Report:
        plan = replace(FULL, hops={})
        with network("process") as running, ExitStack() as stack:
            target = _targets(stack, running, "bodies", plan)["myxo"]
            return _joined([measured(target, quick)])

    return measure_part


PARTS: Mapping[str, Measure] = {
    "abuse": _alone(lambda target, quick: proxy_abuse.measure(target, quick=quick)),
    "bodies": _alone(
        lambda target, quick: proxy_bodies.measure({"myxo": target}, quick=quick, rounds=1)
    ),
    "far-bodies": lambda quick: _joined([proxy_far_bodies.measure(quick=quick)]),
    "idle": _alone(lambda target, quick: proxy_idle.measure({"myxo": target}, quick=quick)),
}


def _warm(running: Network, plan: Plan, quick: bool) -> tuple[dict[str, Any], str]:
    """Measure small answers, then idle connections."""
    with ExitStack() as stack:
        targets = _targets(stack, running, "answer", plan)
        figures, text = proxy_rates.measure(
            targets, rounds=plan.rounds, block_s=plan.block_s, peak_s=plan.peak_s
        )
        compared = {hop: targets[hop] for hop in ("myxo", *QUICK_HOPS)}
        more, idle = proxy_idle.measure(compared, quick=quick)
        return figures | more, f"{text}\n\n{idle}"


def _bodies(running: Network, plan: Plan, quick: bool) -> tuple[dict[str, Any], str]:
    """Measure large bodies, then what is left of broken ones."""
    with ExitStack() as stack:
        targets = _targets(stack, running, "bodies", plan)
        figures, text = proxy_bodies.measure(targets, quick=quick, rounds=plan.body_rounds)
        more, abuse = proxy_abuse.measure(targets["myxo"], quick=quick)
        return figures | more, f"{text}\n\n{abuse}"


def _kill(running: Network, plan: Plan) -> tuple[dict[str, Any], str]:
    name = _new_name("three")
    count = proxy_kill.INSTANCES
    spec = _spec("answer").model_copy(update={"min_instances": count, "max_instances": count})
    trio.run(_add, running, name, spec)

    def addresses() -> list[str]:
        return trio.run(running.addresses, name)

    proxy_kill.await_instances(addresses)
    return proxy_kill.measure(running.url(name, "/"), addresses, kills=plan.kills)


def _targets(stack: ExitStack, running: Network, program: str, plan: Plan) -> dict[str, Target]:
    """Start a service and every hop before its instance."""
    name = _new_name(program)
    trio.run(_add, running, name, _spec(program))
    (address,) = trio.run(running.addresses, name)
    host, _, port = address.rpartition(":")
    targets = {
        DIRECT: Target(f"http://{address}/", None),
        "myxo": Target(running.url(name, "/"), trio.run(running.processes)["proxy"]),
    }
    if plan.hops:
        targets[ENGINE] = Target(*stack.enter_context(envoy_engine(running, name)))
    for hop, start in plan.hops.items():
        targets[hop] = Target(*stack.enter_context(start(host, int(port))))
    return targets


def _new_name(what: str) -> ServiceName:
    return service_name(f"bench-{what}-{secrets.token_hex(3)}")


def _spec(program: str) -> ServiceSpec:
    return ServiceSpec(process=f"exec {compiled(program)} $SERVICE_PORT")


async def _add(running: Network, name: ServiceName, spec: ServiceSpec) -> None:
    """Add a service and have it started."""
    async with open_registrar(running) as registrar:
        await registrar.add(name, spec)
        await trio.to_thread.run_sync(ask_until_ok, running.url(name))


if __name__ == "__main__":
    run("proxy", __doc__.splitlines()[0], measure, parts=PARTS)
