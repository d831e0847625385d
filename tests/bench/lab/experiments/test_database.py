import sqlite3
from pathlib import Path

import pytest

from bench.lab.errors import BadInput, StoreFailed
from bench.lab.experiments.database import database_url, open_engine, shown

MYSQL = {"DB_TYPE": "mysql", "MYSQL_USER": "u", "MYSQL_PASSWORD": "p@ss", "MYSQL_DB": "galileo"}


def test_without_a_word_it_is_a_file_in_the_state_directory(tmp_path: Path) -> None:
    url = database_url("", {}, tmp_path)
    assert (url.get_backend_name(), url.database) == (
        "sqlite",
        str(tmp_path / "experiments.sqlite3"),
    )


def test_galileos_variables_are_read_as_galileo_reads_them(tmp_path: Path) -> None:
    url = database_url("", MYSQL, tmp_path)
    assert (url.host, url.port, url.username, url.password, url.database) == (
        "localhost",
        3307,
        "u",
        "p@ss",
        "galileo",
    )
    url = database_url("", MYSQL | {"MYSQL_HOST": "db", "MYSQL_PORT": "3306"}, tmp_path)
    assert (url.host, url.port) == ("db", 3306)


def test_a_url_beats_the_variables(tmp_path: Path) -> None:
    url = database_url("postgresql://u@h/n", MYSQL, tmp_path)
    assert url.drivername == "postgresql+psycopg"


def test_a_password_is_not_shown(tmp_path: Path) -> None:
    assert "p@ss" not in shown(database_url("", MYSQL, tmp_path))


@pytest.mark.parametrize(
    ("given", "environ", "reason"),
    [
        ("no url", {}, "is no URL of a database"),
        ("oracle://h/n", {}, "'oracle' are not known"),
        ("", {"DB_TYPE": "influx"}, "DB_TYPE is 'influx'"),
        ("", MYSQL | {"MYSQL_PORT": "x"}, "MYSQL_PORT is 'x'"),
        ("", {"DB_TYPE": "mysql"}, "MYSQL_DB must name"),
    ],
)
def test_what_names_no_database_is_refused(
    given: str, environ: dict[str, str], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=reason):
        database_url(given, environ, tmp_path)


def test_a_database_with_other_tables_of_these_names_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "galileo.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE experiments (EXP_ID TEXT, NAME TEXT)")
    db.close()
    with pytest.raises(StoreFailed, match="a table experiments without"):
        open_engine(database_url(f"sqlite:///{path}", {}, tmp_path))


def test_a_server_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    url = database_url("mysql://u:secret@127.0.0.1:1/n", {}, tmp_path)
    with pytest.raises(StoreFailed, match=r"127\.0\.0\.1:1.* cannot be used") as caught:
        open_engine(url)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database_is_said_so(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("these are notes, and long enough to be looked at\n" * 50)
    with pytest.raises(StoreFailed, match="not a database"):
        open_engine(database_url(f"sqlite:///{path}", {}, tmp_path))
