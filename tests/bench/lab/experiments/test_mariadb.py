from pathlib import Path

import pymysql
import pytest

from bench.lab.errors import BadInput
from bench.lab.experiments import mariadb
from overlay.testing_ports import free_port

pytestmark = pytest.mark.slow


def connected(exports: dict[str, str]) -> pymysql.Connection:
    return pymysql.connect(
        host=exports["MYSQL_HOST"],
        port=int(exports["MYSQL_PORT"]),
        user=exports["MYSQL_USER"],
        password=exports["MYSQL_PASSWORD"],
        database=exports["MYSQL_DB"],
    )


def test_a_server_is_found_by_what_it_exports_and_keeps_its_data(
    tmp_path: Path, mariadb_server: mariadb.MariaDb
) -> None:
    port = free_port()
    first = mariadb.start(tmp_path, port)
    try:
        assert mariadb.start(tmp_path, port) == first  # it runs already
        connection = connected(dict(first.exports()))
        connection.cursor().execute("CREATE TABLE kept (n INT)")
        connection.close()
        assert mariadb.stop(tmp_path)
        assert not mariadb.stop(tmp_path)
        again = mariadb.start(tmp_path, port)
        assert again == first
        connection = connected(dict(again.exports()))
        assert connection.cursor().execute("SHOW TABLES LIKE 'kept'") == 1
        connection.close()
    finally:
        mariadb.stop(tmp_path)


def test_only_its_owner_reads_the_password(mariadb_server: mariadb.MariaDb) -> None:
    kept = [path for path in mariadb_server.folder.iterdir() if path.is_file()]
    for path in kept:
        if mariadb_server.password in path.read_text(errors="replace"):
            assert path.stat().st_mode & 0o077 == 0


def test_a_port_that_is_taken_is_said_so(tmp_path: Path, mariadb_server: mariadb.MariaDb) -> None:
    with pytest.raises(BadInput, match=f"{mariadb_server.port} is already in use"):
        mariadb.start(tmp_path, mariadb_server.port)
