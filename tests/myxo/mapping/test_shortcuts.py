"""Frames that go past the proxy where caller and worker are on one machine, and only there."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import pytest

import myxo
from myxo.mapping import lane
from myxo.mapping.frames import HEAD, Kind, decode_head
from myxo.mapping.shortcuts import Shortcut, offered, take
from myxo.mapping.spare_lanes import Spare, SpareLanes
from tests.myxo.mapping.conftest import await_cleared_up

TIMEOUT_S = 60.0
FEW_BYTES = 4096


@contextmanager
def lane_ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    caller, worker = socket.socketpair()
    with caller, worker:
        caller.settimeout(TIMEOUT_S)
        worker.settimeout(TIMEOUT_S)
        yield caller, worker


@pytest.fixture
def shortcut() -> Iterator[Shortcut]:
    one = offered()
    assert one is not None
    with one.listener:
        yield one


def test_what_is_said_past_the_lane_is_heard(shortcut: Shortcut) -> None:
    with lane_ends() as (_, worker):
        near = take(shortcut.offer)
        far = shortcut.taken(worker)
        assert near is not None
        assert far is not None
        with near, far:
            near.send(b"to the worker")
            far.send(b"to the caller")
            assert (far.recv(99), near.recv(99)) == (b"to the worker", b"to the caller")


def test_a_caller_that_stays_on_the_lane_is_heard_there(shortcut: Shortcut) -> None:
    with lane_ends() as (caller, worker):
        caller.send(b"here")
        assert shortcut.taken(worker) is None
        assert worker.recv(99) == b"here"
    assert take(shortcut.offer) is None  # nobody listens there any more


def test_who_does_not_know_the_word_is_sent_away(shortcut: Shortcut) -> None:
    name, word = shortcut.offer
    with lane_ends() as (caller, worker):
        stranger = take((name, bytes(len(word))))
        assert stranger is not None
        hearing = threading.Thread(target=shortcut.taken, args=[worker])
        hearing.start()
        with stranger:
            stranger.settimeout(TIMEOUT_S)
            assert stranger.recv(1) == b""
        caller.send(b"here")
        hearing.join(TIMEOUT_S)
        assert not hearing.is_alive()


@pytest.mark.parametrize("offer", [None, ("myxo-map-of-another-machine", b"word")])
def test_where_nothing_can_be_reached_there_is_no_way_past(offer: tuple[str, bytes] | None) -> None:
    assert take(offer) is None


def test_a_spare_lane_is_none_when_its_worker_is_not_held_any_more() -> None:
    for ends in (False, True):
        with closing(SpareLanes(TIMEOUT_S)) as spares, lane_ends() as (one, _), lane_ends() as two:
            holding, proxy = two
            proxy.send(b"a word that says nothing")
            spare = Spare(one, "here:1", "id", (3, 11, 0), 0, holding)
            spares.keep("there", spare)
            if ends:
                proxy.close()
            assert spares.take("there") is (None if ends else spare)
            assert (holding.fileno() == -1) is ends


class Relay:
    """Stands for a proxy: leads to a worker, and keeps what it relayed.

    Attributes:
        address: where it listens.
        said: what each connection's worker said, in order.
        carried: bytes, both ways.
    """

    def __init__(self, worker: str) -> None:
        host, port = worker.split(":")
        self._worker = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.said: list[bytearray] = []
        self.carried = 0
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._run(self._accept)

    def _run(self, task: object, *args: object) -> None:
        thread = threading.Thread(target=task, args=args)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._worker)
                self._open += [near, far]
                self.said.append(bytearray())
                self._run(self._carry, near, far, bytearray())
                self._run(self._carry, far, near, self.said[-1])

    def _carry(self, source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                kept += data
                self.carried += len(data)
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """End all connections that stand."""
        for one in tuple(self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of everything."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(TIMEOUT_S)
        for one in self._open:
            one.close()


@pytest.fixture
def relay(worker: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    with closing(Relay(worker)) as one, closing(SpareLanes(TIMEOUT_S)) as spares:
        monkeypatch.setattr(lane, "SPARE_LANES", spares)
        yield one
        await_cleared_up()


def test_on_one_machine_the_proxy_relays_no_items_and_no_results(relay: Relay) -> None:
    for count in (20_000, 30_000):
        results = myxo.map_sync(lambda x: x + 1, range(count), proxy=relay.address, max_in_flight=1)
        assert results == [*range(1, count + 1)]
    assert len(relay.said) == 1
    assert 0 < relay.carried < FEW_BYTES


def test_elsewhere_it_relays_them(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "take", lambda _: None)
    results = myxo.map_sync(lambda x: x + 1, range(20_000), proxy=relay.address, max_in_flight=1)
    assert results == [*range(1, 20_001)]
    assert relay.carried > 20_000


def test_the_proxy_hears_that_a_worker_is_used(relay: Relay) -> None:
    myxo.map_sync(time.sleep, [0.1], proxy=relay.address, max_in_flight=1)
    head = decode_head(relay.said[0][-HEAD.size :])
    assert (head.kind, head.parts) == (Kind.STILL, 0)


def test_what_was_computed_when_the_proxy_went_is_computed_again(relay: Relay) -> None:
    cut = threading.Timer(0.3, relay.cut)
    cut.start()

    def paused(item: int) -> int:
        time.sleep(0.05)
        return item

    results = myxo.map_sync(paused, range(20), chunk=20, proxy=relay.address, max_in_flight=1)
    cut.join()
    assert results == [*range(20)]
    assert len(relay.said) > 1
