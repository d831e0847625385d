"""Maps over a service: one request an item, one outcome an index, whatever the service does."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator

import pytest
import trio

import myxo
from myxo.mapping.calls import MapCall
from myxo.mapping.requests import Requests
from myxo.mapping.settings import MapSettings
from myxo.services.asking import target_of
from myxo.services.codec import JSON
from myxo.services.errors import AnswerLost, NoProxy, RequestFailed, Undecodable, Unencodable
from myxo.services.proxy_address import proxy_address
from myxo.services.testing import PATIENCE_S, Asked, Reply, Service
from overlay.errors import InvalidName
from overlay.testing_ports import free_port
from tests.myxo.callers import Use, numbers, run_under_asyncio


def doubled(asked: Asked) -> Reply:
    assert asked.headers["Content-Type"] == "application/json"
    return 200, json.dumps(2 * asked.value).encode()


def test_each_item_is_a_post_of_json_and_its_result_is_the_answer(service: Service) -> None:
    paths = set()

    def answer(asked: Asked) -> Reply:
        paths.add((asked.method, asked.path))
        return doubled(asked)

    service.answer = answer
    items = [1, 2.5, "ab", [None, "ü"]]
    assert myxo.map_sync("sums/of/two?exact=1", items, proxy=service.address) == [
        2,
        5.0,
        "abab",
        [None, "ü", None, "ü"],
    ]
    assert paths == {("POST", "/sums/of/two?exact=1")}


def test_items_are_bytes_or_what_a_codec_makes_of_them(service: Service) -> None:
    items = [b"\x00\xff", bytearray(b"ab"), memoryview(b"")]
    assert myxo.map_sync("echo", items, codec="bytes", proxy=service.address) == [
        b"\x00\xff",
        b"ab",
        b"",
    ]
    types = set()

    def answer(asked: Asked) -> Reply:
        types.add(asked.headers["Content-Type"])
        return 200, asked.body

    service.answer = answer
    codec = (lambda x: f"<{x}>".encode(), lambda data: int(data.strip(b"<>")), "text/plain")
    assert myxo.map_sync("echo", range(20), codec=codec, proxy=service.address) == list(range(20))
    assert types == {"text/plain"}


def test_results_are_in_order_also_where_answers_are_not(service: Service) -> None:
    later = threading.Event()

    def answer(asked: Asked) -> Reply:
        if asked.value == 0:
            assert later.wait(PATIENCE_S)
        elif asked.value == 29:
            later.set()
        return doubled(asked)

    service.answer = answer
    assert myxo.map_sync("s", range(30), max_in_flight=3, proxy=service.address) == [
        2 * x for x in range(30)
    ]


def test_as_completed_a_late_answer_holds_no_other_back(service: Service) -> None:
    taken = threading.Event()

    def answer(asked: Asked) -> Reply:
        if asked.value == 0:
            assert taken.wait(PATIENCE_S)
        return doubled(asked)

    async def pairs() -> list[tuple[int, int]]:
        seen = []
        async for pair in myxo.map("s", range(20), as_completed=True, proxy=service.address):
            seen.append(pair)
            if len(seen) == 19:
                taken.set()
        return seen

    service.answer = answer
    seen = asyncio.run(pairs())
    assert seen[-1] == (0, 0)
    assert sorted(seen) == [(x, 2 * x) for x in range(20)]


def test_so_many_requests_as_allowed_are_under_way_at_once(service: Service) -> None:
    together = threading.Barrier(4, timeout=PATIENCE_S)

    def answer(asked: Asked) -> Reply:
        together.wait()
        return doubled(asked)

    service.answer = answer
    assert len(myxo.map_sync("s", range(40), max_in_flight=4, proxy=service.address)) == 40
    assert service.peak == 4


def test_a_generator_is_read_no_further_than_the_requests_need(service: Service) -> None:
    read = 0

    def endless() -> Iterator[int]:
        nonlocal read
        while True:
            yield read
            read += 1

    async def first_ten() -> list[int]:
        results = []
        async for result in myxo.map("s", endless(), max_in_flight=4, proxy=service.address):
            results.append(result)
            if len(results) == 10:
                break
        return results

    def answer(asked: Asked) -> Reply:
        if asked.value < 10:
            return doubled(asked)
        asked.wait_until_gone()
        return None

    service.answer = answer
    assert asyncio.run(first_ten()) == [2 * x for x in range(10)]
    # Ten are answered, four under way, and twice is one more than lanes asked for.
    assert read <= 10 + 4 + 2 * 5


async def whole_list(address: str) -> None:
    assert await myxo.map("s", range(100), proxy=address) == [2 * x for x in range(100)]
    assert await myxo.map("s", numbers(20), proxy=address) == [2 * x for x in range(20)]
    assert await myxo.map("s", [], proxy=address) == []


async def in_order(address: str) -> None:
    seen = [result async for result in myxo.map("s", iter(range(100)), proxy=address)]
    assert seen == [2 * x for x in range(100)]


@pytest.mark.parametrize("use", [whole_list, in_order])
@pytest.mark.parametrize("run", [trio.run, run_under_asyncio])
def test_it_is_awaited_and_iterated_under_trio_and_asyncio(
    service: Service,
    use: Use,
    run: Callable[[Use, str], None],
) -> None:
    service.answer = doubled
    run(use, service.address)


# Errors


def fails_at_three(asked: Asked) -> Reply:
    return (422, b"three is not to be had\n") if asked.value == 3 else doubled(asked)


def test_an_error_says_status_body_and_index(service: Service) -> None:
    service.answer = fails_at_three
    with pytest.raises(RequestFailed, match=r"^s/x answered 422: three is not to be had") as caught:
        myxo.map_sync("s/x", range(10), proxy=service.address)
    error = caught.value
    assert (error.status, error.body, error.index) == (422, b"three is not to be had\n", 3)
    assert error.__notes__ == ["item 3 of the map"]


def test_errors_can_be_results_and_sink_no_other_item(service: Service) -> None:
    service.answer = fails_at_three
    results = myxo.map_sync("s", range(10), return_exceptions=True, proxy=service.address)
    assert isinstance(results[3], RequestFailed)
    assert results[:3] + results[4:] == [2 * x for x in range(10) if x != 3]


def test_an_answer_that_sends_elsewhere_is_no_result(service: Service) -> None:
    service.answer = lambda _: (302, b"", {"Location": "/s/there"})
    with pytest.raises(RequestFailed, match="s/ answered 302"):
        myxo.map_sync("s", [1], proxy=service.address)
    assert service.requests == 1


def test_cookies_of_one_item_are_not_sent_with_the_next(service: Service) -> None:
    def answer(asked: Asked) -> Reply:
        assert "Cookie" not in asked.headers
        return 200, asked.body, {"Set-Cookie": "myxo-instance=1"}

    service.answer = answer
    assert myxo.map_sync("s", range(9), max_in_flight=2, proxy=service.address) == list(range(9))


def test_what_cannot_be_encoded_or_decoded_is_said(service: Service) -> None:
    service.answer = lambda asked: (200, b"hello" if asked.value == 1 else asked.body)
    results = myxo.map_sync("s", [0, {1}, 1], return_exceptions=True, proxy=service.address)
    assert results[0] == 0
    assert isinstance(results[1], Unencodable)
    assert str(results[1]).startswith("a set cannot be sent to s/: ")
    assert isinstance(results[2], Undecodable)
    assert service.requests == 2


def test_what_failed_is_asked_again_as_often_as_allowed(service: Service) -> None:
    service.answer = lambda asked: None if asked.seen < 3 else doubled(asked)
    assert myxo.map_sync("s", [1, 2], retries=2, proxy=service.address) == [2, 4]
    assert service.requests == 6
    service.answer = lambda _: None
    with pytest.raises(AnswerLost, match="the connection ended before s/ had answered"):
        myxo.map_sync("s", [3], retries=1, proxy=service.address)
    assert service.requests == 8


def test_an_item_that_takes_too_long_fails_alone_and_its_request_is_given_up(
    service: Service,
) -> None:
    def answer(asked: Asked) -> Reply:
        if asked.value != 3:
            return doubled(asked)
        asked.wait_until_gone()
        return None

    service.answer = answer
    results = myxo.map_sync(
        "s", [3], timeout=0.2, return_exceptions=True, proxy=service.address
    ) + myxo.map_sync("s", range(3), timeout=PATIENCE_S, proxy=service.address)
    assert isinstance(results[0], TimeoutError)
    assert results[1:] == [0, 2, 4]


def test_a_proxy_that_has_no_room_now_is_asked_again(service: Service) -> None:
    no_room = 503, b"no room", {"Server": "myxo", "Retry-After": "0"}
    service.answer = lambda asked: no_room if asked.seen < 4 else doubled(asked)
    assert myxo.map_sync("s", range(5), proxy=service.address) == [2 * x for x in range(5)]


def test_a_service_that_says_so_itself_is_not(service: Service) -> None:
    service.answer = lambda _: (503, b"no", {"Server": "nginx", "Retry-After": "0"})
    with pytest.raises(RequestFailed) as caught:
        myxo.map_sync("s", [1], proxy=service.address)
    assert (caught.value.retry_after_s, caught.value.by_network) == (0.0, False)
    assert service.requests == 1


def test_a_proxy_that_never_has_room_is_left(service: Service) -> None:
    service.answer = lambda _: (429, b"too many", {"Server": "myxo", "Retry-After": "1"})
    requests = Requests(target_of("s"), JSON, proxy_address(service.address))
    with pytest.raises(RequestFailed, match="s/ answered 429: too many"):
        list(MapCall[int, int](requests, [1], MapSettings(patience_s=0.0)).wait())


def test_where_no_proxy_is_that_is_said() -> None:
    with pytest.raises(NoProxy, match=r"no proxy answers at .* `myxo up`"):
        myxo.map_sync("s", range(100), proxy=f"127.0.0.1:{free_port()}")


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(InvalidName, match="'No Service' is not a service name"):
        myxo.map_sync("No Service/x", [1])
    with pytest.raises(ValueError, match="codec is 'xml'"):
        myxo.map_sync("s", [1], codec="xml")


# Cancellation


async def test_a_caller_that_is_cancelled_gives_its_requests_up(service: Service) -> None:
    come, gone = threading.Event(), threading.Event()

    def answer(asked: Asked) -> Reply:
        come.set()
        asked.wait_until_gone()
        gone.set()
        return None

    service.answer = answer
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                await myxo.map("s", [1], proxy=service.address)

            nursery.start_soon(ask)
            await trio.to_thread.run_sync(come.wait)
            nursery.cancel_scope.cancel()
        assert await trio.to_thread.run_sync(gone.wait, PATIENCE_S)
