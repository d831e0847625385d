"""A program that is ported to services keeps its PostgreSQL, and names the driver that it needs."""

from pathlib import Path
from typing import Any

import httpx
import psycopg2
import pytest

from bench.network import environment
from bench.puma_program import puma_program

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

GUEST_BOOK = """\
import psycopg2

from myxo.puma import puma_config, puma_service, puma_start, request

DATABASE = {url!r}


def connected():
    return psycopg2.connect(DATABASE)


def sign():
    with connected() as database, database.cursor() as cursor:
        cursor.execute("INSERT INTO guests (name) VALUES (%s) RETURNING id", [request.form["name"]])
        return {{"number": cursor.fetchone()[0]}}


def guests():
    with connected() as database, database.cursor() as cursor:
        cursor.execute("SELECT name FROM guests ORDER BY id")
        return [name for name, in cursor]


if __name__ == "__main__":
    puma_config({{
        "puma_services": {{"sign": "/sign", "guests": "/guests"}},
        "requires": {requires!r},
    }})
    puma_service({{"sign": sign, "guests": guests}})
    puma_start()
"""
NAMES = ["Ada", "Robert'); DROP TABLE guests;--", "Zoë"]


def guest_book(folder: Path, url: str, requires: list[str]) -> Path:
    program = folder / "book.py"
    program.write_text(GUEST_BOOK.format(url=url, requires=requires))
    return program


def ask(url: str, **form: str) -> httpx.Response:
    return httpx.post(url, data=form, timeout=60) if form else httpx.get(url, timeout=60)


@pytest.fixture
def guests_table(postgres: str) -> str:
    """The URL of a database with an empty table, as the program before had it."""
    database: Any = psycopg2.connect(postgres)
    with database, database.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS guests")
        cursor.execute("CREATE TABLE guests (id serial PRIMARY KEY, name text NOT NULL)")
    database.close()
    return postgres


def test_its_services_share_the_database_that_the_program_had(
    tmp_path: Path, guests_table: str
) -> None:
    program = guest_book(tmp_path, guests_table, ["psycopg2-binary>=2.9"])
    with puma_program(program, environment(tmp_path)) as running:
        signed = [ask(running.url("/sign"), name=name) for name in NAMES]
        assert [answer.json() for answer in signed] == [{"number": n} for n in (1, 2, 3)]
        assert ask(running.url("/guests")).json() == NAMES
    database: Any = psycopg2.connect(guests_table)
    with database, database.cursor() as cursor:
        cursor.execute("SELECT name FROM guests ORDER BY id")
        assert [name for (name,) in cursor] == NAMES, "what was written outlasts the services"
    database.close()


def test_a_driver_that_is_not_installed_is_named_to_who_asks(
    tmp_path: Path, guests_table: str
) -> None:
    program = guest_book(tmp_path, guests_table, ["psycopg2-binary>=2.9", "nowhere-to-be-had>=1"])
    with puma_program(program, environment(tmp_path)) as running:
        answer = ask(running.url("/guests"))
    assert answer.status_code in {503, 504}
    assert "this machine's environment lacks nowhere-to-be-had>=1; its operator" in answer.text


def test_what_is_no_requirement_is_refused_before_anything_starts(
    tmp_path: Path, guests_table: str
) -> None:
    del guests_table
    program = guest_book(tmp_path, "", ["psycopg2, please"])
    with (
        pytest.raises(Exception, match="requires: 'psycopg2, please' is not what pip would"),
        puma_program(program, environment(tmp_path)),
    ):
        pass
    assert not (tmp_path / "state").exists()
