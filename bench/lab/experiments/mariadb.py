"""A MariaDB of one's own: Debian's server with its data in a folder, on this machine alone.

It goes on after the command that started it, until `stop`. It listens on 127.0.0.1 and has one
user, with a password by chance that only the folder's owner can read.
"""

import json
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.lab.errors import BadInput, StoreFailed
from bench.lab.experiments.database import MYSQL_PORT
from overlay.notify import listening
from overlay.ports import port_taken

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0

DEFAULT_PORT = MYSQL_PORT
HOST = "127.0.0.1"
NAME = "myxo"
"""Of the database and of its user."""

_STATE = "server.json"

_INSTALL = """\
CREATE DATABASE IF NOT EXISTS {name} CHARACTER SET utf8mb4;
CREATE OR REPLACE USER '{name}'@'localhost' IDENTIFIED BY '{password}';
CREATE OR REPLACE USER '{name}'@'127.0.0.1' IDENTIFIED BY '{password}';
GRANT ALL ON {name}.* TO '{name}'@'localhost';
GRANT ALL ON {name}.* TO '{name}'@'127.0.0.1';
"""


@dataclass(frozen=True, slots=True)
class MariaDb:
    """A server that runs, or is about to."""

    folder: Path
    port: int
    password: str

    def exports(self) -> Mapping[str, str]:
        """Return the variables by which Galileo's programs and Myxo's find it."""
        return {
            "DB_TYPE": "mysql",
            "MYSQL_HOST": HOST,
            "MYSQL_PORT": str(self.port),
            "MYSQL_USER": NAME,
            "MYSQL_PASSWORD": self.password,
            "MYSQL_DB": NAME,
        }


def start(folder: Path, port: int = DEFAULT_PORT) -> MariaDb:
    """Start the server whose data are in `folder`, and return when it answers; blocks.

    One that runs there already is left as it is.

    Raises:
        StoreFailed: MariaDB is not installed, or did not start, with the end of what it said.
        BadInput: the port is taken.
    """
    if (running := _running(folder)) is not None:
        return running.database
    server, install = _program("mariadbd"), _program("mariadb-install-db")
    _check_free(port)
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not (data / "mysql").exists():
        _make(install, data)
    database = MariaDb(folder, port, _password(folder))
    _launch(server, database)
    return database


def stop(folder: Path) -> bool:
    """End the server whose data are in `folder`; return whether one ran. Blocks.

    Raises:
        StoreFailed: it does not end.
    """
    if (running := _running(folder)) is None:
        return False
    end = os.pidfd_open(running.pid)
    try:
        signal.pidfd_send_signal(end, signal.SIGTERM)
        if not select.select([end], [], [], STOP_TIMEOUT_S)[0]:
            raise StoreFailed(f"the MariaDB in {folder} (process {running.pid}) does not end")
    finally:
        os.close(end)
    return True


@dataclass(frozen=True, slots=True)
class _Running:
    pid: int
    database: MariaDb


def _running(folder: Path) -> _Running | None:
    """Return the server that `start` started, if it still runs."""
    try:
        kept = json.loads((folder / _STATE).read_text())
        words = Path(f"/proc/{kept['pid']}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    if f"--datadir={folder / 'data'}".encode() not in words:
        return None  # another process has that number by now
    return _Running(kept["pid"], MariaDb(folder, kept["port"], kept["password"]))


def _program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        raise StoreFailed(
            f"{name} is not installed: sudo apt-get install mariadb-server, or name a database "
            "that runs elsewhere with --database or DB_TYPE and MYSQL_HOST"
        )
    return found


def _check_free(port: int) -> None:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((HOST, port))
        except OSError as exc:
            raise BadInput(port_taken(port)) from exc


def _make(install: str, data: Path) -> None:
    """Make the tables of an empty server."""
    command = [
        install,
        "--no-defaults",
        f"--datadir={data}",
        "--auth-root-authentication-method=socket",
        "--skip-test-db",
        *_as_this_user(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(data)
        raise StoreFailed(f"no MariaDB could be made in {data}: {done.stdout}{done.stderr}")


def _launch(server: str, database: MariaDb) -> None:
    folder = database.folder
    log = folder / "server.log"
    # A Unix socket's path has 108 bytes at most, which a state directory may exceed.
    with tempfile.TemporaryDirectory(prefix="myxo-") as short:
        first = Path(short) / "first.sql"
        first.touch(mode=0o600)
        first.write_text(_INSTALL.format(name=NAME, password=database.password))
        command = [
            server,
            "--no-defaults",
            f"--datadir={folder / 'data'}",
            f"--bind-address={HOST}",
            f"--port={database.port}",
            f"--pid-file={folder / 'server.pid'}",
            f"--init-file={first}",
            "--socket=",  # of TCP alone it is said where it listens
            *_as_this_user(),
        ]
        with listening(Path(short) / "ready") as ready, log.open("ab") as output:
            process = subprocess.Popen(
                command,
                env=os.environ | ready.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in this terminal is not meant for it
            )
            if not ready.wait(process, START_TIMEOUT_S):
                process.kill()
                process.wait()
                raise StoreFailed(f"MariaDB did not start; the end of {log}:\n{_tail(log)}")
    process.returncode = 0  # it is left to itself: to Python, one that ends with its parent
    kept = {"pid": process.pid, "port": database.port, "password": database.password}
    _write_private(folder / _STATE, json.dumps(kept))


def _password(folder: Path) -> str:
    """Return the password of earlier starts, or a new one."""
    try:
        return str(json.loads((folder / _STATE).read_text())["password"])
    except (OSError, ValueError, KeyError):
        return secrets.token_hex(16)


def _as_this_user() -> list[str]:
    """Return the flag without which the server refuses to run as root."""
    return ["--user=root"] if os.geteuid() == 0 else []


def _write_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


def _tail(path: Path, lines: int = 8) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
