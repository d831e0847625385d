import json
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from overlay.control import ControlConnection, open_control, serve_control
from overlay.identity import Identity
from overlay.names import ServiceName
from proxy.control.routing_desk import RoutingCommand, RoutingDesk
from proxy.ranking.routing_table import RoutingTable

PROXY = Identity.from_seed(b"p" * 32)
SET = {"do": "set", "service": "net", "hosts": ["h:80", "e:80"], "weights": [1, 2.5]}


def desk(path: Path | None = None, table: RoutingTable | None = None) -> RoutingDesk:
    made = RoutingTable() if table is None else table
    return RoutingDesk(made, path, 4200, lambda _: None, PROXY)


def said(at: RoutingDesk, **command: object) -> Mapping[str, Any]:
    return at.answer(RoutingCommand.model_validate(command))


def test_commands_do_what_they_say() -> None:
    at = desk()
    record = {"service": "net", "hosts": ("h:80", "e:80"), "weights": (1.0, 2.5)}
    assert said(at, **SET) == {"record": record}
    assert said(at, do="list") == {"records": [record]}
    assert said(at, do="info") == {
        "proxy": 4200,
        "services": 1,
        "targets": 2,
        "updates": 1,
        "file": None,
    }
    assert said(at, do="unset", service="net") == {"unset": 1}
    assert "no service 'net'" in said(at, do="unset", service="net")["error"]
    assert said(at, do="clear") == {"unset": 0}
    assert [u["record"] for u in said(at, do="updates")["updates"]] == [record, None]
    assert said(at, do="flush") == {"flushed": 2}


@pytest.mark.parametrize("host", ["127.0.0.1:4200", "localhost:4200", "[::1]:4200"])
def test_the_proxy_itself_is_no_target(host: str) -> None:
    assert "circle" in said(desk(), do="set", service="net", hosts=[host])["error"]


def test_the_table_outlives_the_proxy_for_its_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "routing-tables" / "4200.json"
    said(desk(path), **SET)
    table = RoutingTable()
    again = desk(path, table)
    assert [r.weights for r in table.records()] == [(1.0, 2.5)]
    assert table.updates() == ()
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    said(again, do="clear")
    desk(path, last := RoutingTable())
    assert last.records() == []


@pytest.mark.parametrize("content", ["", "{", '{"routes": [{"service": "a"}]}', "[" * 100_000])
def test_a_broken_file_stops_no_proxy(tmp_path: Path, content: str) -> None:
    path = tmp_path / "4200.json"
    path.write_text(content)
    assert said(desk(path), do="list") == {"records": []}


def test_a_service_of_the_table_alone_has_a_stand_in_while_it_is_there() -> None:
    at = desk()
    assert at.stand_in(ServiceName("net")) is None
    said(at, **SET)
    stand_in = at.stand_in(ServiceName("net"))
    assert stand_in is not None
    assert stand_in.owner == PROXY.peer_id
    assert at.stand_in(ServiceName("net")) is stand_in
    said(at, do="unset", service="net")
    assert at.stand_in(ServiceName("net")) is None


@asynccontextmanager
async def served(at: RoutingDesk, path: Path) -> AsyncIterator[ControlConnection]:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_control, path, dict, {"rtable": at.serve})
            async with open_control(path, "rtable") as connection:
                yield connection
            nursery.cancel_scope.cancel()


async def line(connection: ControlConnection) -> dict[str, Any]:
    received = await connection.receive()
    assert received is not None
    found: dict[str, Any] = json.loads(received)
    return found


async def test_one_connection_takes_many_commands_and_mistakes(tmp_path: Path) -> None:
    async with served(desk(), tmp_path / "s") as connection:
        await connection.send({"do": "dance"})
        assert "do" in (await line(connection))["error"]
        await connection.send({"do": "set", "service": "net", "hosts": ["x"]})
        assert "HOST:PORT" in (await line(connection))["error"]
        await connection.send(SET, {"do": "list"})
        assert "record" in await line(connection)
        assert len((await line(connection))["records"]) == 1


async def test_who_follows_is_told_of_each_change(tmp_path: Path) -> None:
    at = desk()
    async with served(at, tmp_path / "s") as connection:
        await connection.send({"do": "follow"})
        assert await line(connection) == {"following": True}
        said(at, **SET)
        said(at, do="unset", service="net")
        first, second = await line(connection), await line(connection)
        assert first["record"]["hosts"] == ["h:80", "e:80"]
        assert (second["service"], second["record"]) == ("net", None)
