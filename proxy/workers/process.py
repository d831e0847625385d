"""A worker: a process that accepts on the daemon's sockets, and is no peer itself."""

import os
import signal
import sys
import time
from functools import partial

import structlog
import trio
from prometheus_client import CollectorRegistry

from overlay.cli import run_daemon
from overlay.definitions import Definitions
from overlay.errors import MalformedMessage, PeerUnreachable, SignatureInvalid
from overlay.handover import Handover, socket_of
from overlay.identity import Identity
from overlay.mirroring import Mirror
from overlay.names import PeerId
from overlay.passphrase import NetworkKeys
from overlay.signed import Signed
from overlay.tls import PeerTls, open_tls
from overlay.view import View
from proxy.control.explaining import WhyQuestion
from proxy.frontend.edge_tls import EdgeTls
from proxy.frontend.grace import Grace
from proxy.ranking.routing_table import RoutingRecord
from proxy.serving import Serving
from proxy.settings import ProxySettings
from proxy.succession.calls import LastingCalls
from proxy.succession.messages import CallEnded
from proxy.telemetry.access_log import open_access_log
from proxy.telemetry.tracers import open_tracer, tracers_of
from proxy.workers.counts import rows_of
from proxy.workers.daemon import Daemon
from proxy.workers.feeds import keys_of
from proxy.workers.link import Link
from proxy.workers.messages import (
    FROM_DAEMON,
    Accept,
    Accepting,
    Admitted,
    Answer,
    Begin,
    Carried,
    Defined,
    FromDaemon,
    Keys,
    Listen,
    Retire,
    Routed,
    Tell,
    Told,
)

log = structlog.get_logger()


class _Peer:
    """The peer that the worker works for, as far as it knows."""

    def __init__(self, begin: Begin, calls: LastingCalls) -> None:
        self.peer_id: PeerId = begin.peer_id
        self.identity = Identity.generate()
        self.hostname = begin.hostname
        self.calls = calls
        # How old news is, the daemon judges: time stands still in a mirror.
        self.mirror = Mirror(begin.peer_id, begin.machine, lambda: 0.0)
        self.keys: NetworkKeys
        self.keys, also = keys_of(begin.keys)
        key = begin.tls_key.encode()
        self.tls: PeerTls = open_tls(self.keys, begin.peer_id, also_trusted=also, key=key)
        self._change = trio.Event()

    @property
    def view(self) -> View:
        return self.mirror.view

    def take(self, signed: Signed) -> None:
        if self.view.apply(signed, time.time()) is not None:
            self.signal()

    async def changed(self) -> None:
        await self._change.wait()

    def signal(self) -> None:
        self._change.set()
        self._change = trio.Event()


async def run(descriptor: int) -> None:
    """Work for the daemon at the other end of a socket until it ends or says so.

    Raises:
        MalformedMessage: it does not begin as a daemon does.
    """
    link = Link(Handover(socket_of(descriptor)), FROM_DAEMON)
    received = await link.receive()
    if received is None:
        return
    begin = received[0]
    if not isinstance(begin, Begin):
        raise MalformedMessage("the daemon did not say what this worker is to begin with")
    settings = ProxySettings(**begin.settings)  # nothing else is read: the daemon has done that
    tls = EdgeTls(settings.certificates, settings.client_ca) if settings.tls_cert else None
    counts, daemon = CollectorRegistry(), Daemon(link)
    tracers = tracers_of(settings.otlp_endpoint)
    peer = _Peer(begin, daemon.calls)
    async with (
        open_access_log(settings.access_log, counts) as access_log,
        open_tracer(tracers, peer.hostname, peer.peer_id) as tracer,
        trio.open_nursery() as nursery,
    ):
        grace = Grace(settings.drain_s)
        await nursery.start(grace.run)
        definitions = Definitions(peer, None)
        serving = Serving(
            peer,
            definitions,
            settings,
            grace,
            counts,
            access_log,
            tracer,
            tls,
            carry=daemon.carry,
            rates=daemon,
            kept=None,
            control="",
            welcomed=None,
        )
        nursery.start_soon(serving.run)
        worker = _Worker(link, daemon, peer, definitions, serving, grace, counts)
        grace.lasting.start_soon(worker.hear, nursery.cancel_scope)
        await grace.ended.wait()
        nursery.cancel_scope.cancel()


class _Worker:
    """Does what the daemon says."""

    def __init__(
        self,
        link: Link[FromDaemon],
        daemon: Daemon,
        peer: _Peer,
        definitions: Definitions,
        serving: Serving,
        grace: Grace,
        counts: CollectorRegistry,
    ) -> None:
        self._link = link
        self._daemon = daemon
        self._peer = peer
        self._definitions = definitions
        self._serving = serving
        self._grace = grace
        self._counts = counts
        self._listeners: dict[str, trio.SocketListener] = {}

    async def hear(self, work: trio.CancelScope) -> None:
        """Listen to the daemon until it is gone; then end the work."""
        try:
            while (received := await self._link.receive()) is not None:
                message, descriptors = received
                if not await self._do(message, descriptors):
                    for descriptor in descriptors:
                        os.close(descriptor)
            log.info("worker.daemon_ended")
        except (MalformedMessage, PeerUnreachable, SignatureInvalid) as exc:
            log.warning("worker.daemon_lost", error=str(exc))
        self._daemon.gone()
        work.cancel()

    async def _do(self, message: FromDaemon, descriptors: list[int]) -> bool:
        """Do what a message says; return whether its descriptors were taken."""
        match message:
            case Told() | Defined() | Routed() | Keys():
                self._learn(message)
            case CallEnded():
                self._daemon.calls.ended(message)
            case Admitted() | Carried():
                return self._daemon.answered(message, descriptors)
            case Listen(name=name) if len(descriptors) == 1:
                self._listeners[name] = trio.SocketListener(socket_of(descriptors[0]))
                return True
            case Accept():
                self._serving.listen(self._listeners)
                await self._link.send(Accepting())
            case Tell(number=number):
                await self._link.send(Answer(number=number, content=self._told(message)))
            case Retire(within_s=within_s, move=move):
                if move:
                    self._serving.clients.move = self._daemon.move
                self._grace.retire(within_s)
        return False

    def _learn(self, message: Told | Defined | Routed | Keys) -> None:
        match message:
            case Told(news=news):
                if self._peer.mirror.take(news, time.time()):
                    self._peer.signal()
            case Defined(page=page):
                self._definitions.take(page)
            case Routed():
                self._route(message)
            case Keys():
                self._peer.keys, also = keys_of(message)
                self._peer.tls.renew(self._peer.keys, also_trusted=also)

    def _route(self, message: Routed) -> None:
        if message.hosts:
            record = RoutingRecord(message.service, message.hosts, message.weights)
            self._serving.routes.put(record, time.time())
        else:
            self._serving.routes.unset(message.service, time.time())

    def _told(self, asked: Tell) -> list[object]:
        if asked.what == "counts":
            return list(rows_of(self._counts))
        answer = self._serving.explainer.answer(WhyQuestion(about=asked.about))
        return list(answer["decisions"])


def main() -> None:
    """Run as `python -m proxy.workers.process DESCRIPTOR LOG_LEVEL`."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # is for the daemon, but may be sent to all
    run_daemon(partial(run, int(sys.argv[1])), log_level=sys.argv[2], daemon="proxy-worker")


if __name__ == "__main__":
    main()
