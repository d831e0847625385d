"""What stays of a map for the next one, and what does not."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

import myxo
from myxo.mapping import lane
from myxo.mapping.spare_lanes import MOST, Spare, SpareLanes
from myxo.mapping.workers import process_workers
from myxo.services.proxy_address import proxy_address
from tests.myxo.mapping.conftest import WorkerProcess, await_cleared_up

TIMEOUT_S = 60.0

Pairs = Callable[[], tuple[Spare, socket.socket]]


@pytest.fixture
def make_pair() -> Iterator[Pairs]:
    """Makes spare lanes and their other ends."""
    sockets: list[socket.socket] = []

    def make() -> tuple[Spare, socket.socket]:
        one, other = socket.socketpair()
        sockets.extend((one, other))
        other.settimeout(TIMEOUT_S)
        return Spare(one, "here:1", "id", (3, 11, 0), 0), other

    yield make
    for each in sockets:
        each.close()


@pytest.fixture
def spares(monkeypatch: pytest.MonkeyPatch) -> Iterator[SpareLanes]:
    """Where maps keep their lanes, for as long as a test takes."""
    with closing(SpareLanes(TIMEOUT_S)) as kept:
        monkeypatch.setattr(lane, "SPARE_LANES", kept)
        yield kept
        await_cleared_up()


def where(proxy: str) -> object:
    address = proxy_address(proxy)
    return address, process_workers(address).service


def test_a_lane_is_taken_once_and_by_who_is_led_to_the_same(make_pair: Pairs) -> None:
    with closing(SpareLanes(TIMEOUT_S)) as spares:
        spare, _ = make_pair()
        spares.keep("there", spare)
        assert spares.take("elsewhere") is None
        assert spares.take("there") is spare
        assert spares.take("there") is None


@pytest.mark.parametrize("tell", [lambda end: end.send(b"bye"), lambda end: end.close()])
def test_a_lane_whose_worker_has_said_something_is_not_handed_out(
    make_pair: Pairs, tell: Callable[[socket.socket], object]
) -> None:
    with closing(SpareLanes(TIMEOUT_S)) as spares:
        spare, end = make_pair()
        spares.keep("there", spare)
        tell(end)
        assert spares.take("there") is None
        assert spare.socket.fileno() == -1


def test_a_lane_that_nobody_takes_in_time_is_closed(make_pair: Pairs) -> None:
    spares = SpareLanes(0.01)
    for _ in range(2):  # the second after the first has been seen to
        spare, end = make_pair()
        spares.keep("there", spare)
        assert end.recv(1) == b""


def test_no_more_are_kept_than_a_program_may_have(make_pair: Pairs) -> None:
    with closing(SpareLanes(TIMEOUT_S)) as spares:
        pairs = [make_pair() for _ in range(MOST + 1)]
        for spare, _ in pairs:
            spares.keep("there", spare)
        assert pairs[0][1].recv(1) == b""
        assert spares.take("there") is pairs[-1][0]


def test_a_child_leaves_the_lanes_to_its_parent(make_pair: Pairs) -> None:
    with closing(SpareLanes(TIMEOUT_S)) as spares:
        spare, end = make_pair()
        spares.keep("there", spare)
        child = os.fork()
        if not child:
            spares.after_fork()
            os._exit(spares.take("there") is not None)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        end.setblocking(False)
        with pytest.raises(BlockingIOError):
            end.recv(1)
        assert spares.take("there") is spare


def test_the_next_map_goes_on_with_the_lane_of_the_one_before(
    worker: str, spares: SpareLanes
) -> None:
    assert myxo.map_sync(abs, range(-500, 0), proxy=worker, max_in_flight=1) == [*range(500, 0, -1)]
    await_cleared_up()
    spare = spares.take(where(worker))
    assert spare is not None
    spares.keep(where(worker), spare)
    # Another function, and another time for its items.
    results = myxo.map_sync(lambda x: x + 1, range(500), proxy=worker, max_in_flight=1, timeout=9)
    assert results == [*range(1, 501)]
    await_cleared_up()
    again = spares.take(where(worker))
    assert again is not None
    assert again.id == spare.id
    assert again.numbered > spare.numbered
    again.close()


def test_maps_at_a_lane_one_after_the_other_each_have_their_results(
    worker: str, spares: SpareLanes
) -> None:
    for count in (0, 1, 40, 3_000, 20_000, 7):
        for chunk in ("auto", 11):
            results = myxo.map_sync(lambda x: 2 * x, range(count), chunk=chunk, proxy=worker)
            assert results == [2 * x for x in range(count)]
    del spares


def test_a_map_that_failed_leaves_no_lane_with_work_under_way(
    worker: str, spares: SpareLanes
) -> None:
    with pytest.raises(ZeroDivisionError):
        myxo.map_sync(lambda x: 1 / x, range(1000), chunk=100, proxy=worker, max_in_flight=1)
    await_cleared_up()
    assert spares.take(where(worker)) is None


def test_a_map_has_its_results_though_the_worker_of_the_one_before_has_ended(
    make_worker: Callable[[], WorkerProcess], spares: SpareLanes
) -> None:
    process = make_worker()
    with process as address:
        assert myxo.map_sync(abs, [-1], proxy=address) == [1]
    with process as address:
        assert myxo.map_sync(abs, [-2], proxy=address) == [2]
    del spares
