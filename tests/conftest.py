"""Real parts for the tests: a Docker engine, a base image that needs no registry, an etcd.

A test says by its marker what it needs. Where that is missing it is skipped with the reason, except
under continuous integration (CI is set), where it fails: nothing is left out there unnoticed.
"""

import functools
import gc
import io
import os
import queue
import shutil
import signal
import subprocess
import tarfile
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import docker
import httpx
import hypothesis
import pytest
import structlog
from docker.errors import DockerException

from overlay.notify import listening
from overlay.testing_ports import free_port
from tests import parts
from tests.template import Completed, Forked, start, template

BUSYBOX = Path("/bin/busybox")
BUSYBOX_IMAGE = "myxo-test-busybox:latest"
ETCD_READY = "serving client traffic"
START_TIMEOUT_S = STOP_TIMEOUT_S = 60.0


APART = frozenset({"bench", "bootstrap", "myxo", "overlay", "proxy", "registry"})
"""Folders whose tests do not meet others at this machine's well-known ports."""

BESIDE_LABS = frozenset({"bench", "demos/test_classify.py", "demos/test_dialog.py"})
"""Folders and files whose tests are done beside those on networks in namespaces."""

OWN_PORTS = frozenset({"own_network", "process_network"})
"""Fixtures that give a test a network of processes on ports of its own."""


PARTS = ("machine", "labs", "ports")
"""What is run beside each other; see tools/test.sh."""


def pytest_sessionfinish() -> None:
    """End what commands were forked from."""
    if template.cache_info().currsize:
        template().close()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--part`, by which three runs beside each other do all tests."""
    parser.addoption(
        "--part",
        choices=[*PARTS, "each"],
        help="only the tests that need this machine, or only those on networks in namespaces and "
        "of benchmarks and the lab, or only those on ports of their own; or each of these at once, "
        "in processes of their own",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the other parts."""
    part = config.getoption("--part")
    if part == "each":
        part = parts.fork(config, PARTS)
    if part is not None:
        chosen = [item for item in items if _part(item) == part]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(chosen)])
        items[:] = chosen


def _part(item: pytest.Item) -> str:
    """Return the part that a test is in: whom it could meet decides, then which has time."""
    docker = item.get_closest_marker("docker") is not None
    folder, within, *_ = (*item.path.relative_to(Path(__file__).parent).parts, "")
    if "lab_image" in getattr(item, "fixturenames", ()):
        return "ports"
    if item.get_closest_marker("netns") is not None and (not docker or folder in APART | {"e2e"}):
        return "labs"
    if not docker and not BESIDE_LABS.isdisjoint({folder, f"{folder}/{within}"}):
        return "labs"
    apart = folder in APART or not OWN_PORTS.isdisjoint(getattr(item, "fixturenames", ()))
    return "ports" if apart and not docker else "machine"


def pytest_configure() -> None:
    """Let Ctrl-C reach the commands that tests start, also where this run was started without it.

    A shell starts what it puts in the background with SIGINT ignored, and children inherit that.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # How long an example takes says how busy the machine is.
    hypothesis.settings.register_profile("untimed", hypothesis.settings(), deadline=None)
    hypothesis.settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """Undo what a command line that ran within a test set up."""
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, or under CI fail, a test whose marker names what this machine does not have."""
    for mark, lacking in (("docker", _no_engine), ("etcd", _no_etcd), ("netns", _no_netns)):
        if item.get_closest_marker(mark) is not None and (reason := lacking()):
            _leave_out(reason)


@pytest.fixture(scope="session")
def prometheus_program() -> str:
    """The path of Prometheus."""
    return shutil.which("prometheus") or _leave_out("prometheus is not installed")


@pytest.fixture(scope="session")
def chromedriver_program() -> str:
    """The path of what drives Chromium."""
    return shutil.which("chromedriver") or _leave_out(
        "chromedriver is not installed (Debian: chromium-driver)"
    )


def _leave_out(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"{reason}, and under CI nothing is skipped", pytrace=False)
    pytest.skip(reason)


@functools.cache
def _no_engine() -> str | None:
    with warnings.catch_warnings():
        # The SDK leaves the socket of a client open that it could not make.
        warnings.simplefilter("ignore", ResourceWarning)
        reason = None
        try:
            docker.from_env(timeout=10).close()
        except (DockerException, OSError) as exc:
            reason = f"no Docker engine answers: {exc}"
        gc.collect()
    return reason


@functools.cache
def _no_etcd() -> str | None:
    return None if shutil.which("etcd") else "etcd is not installed (Debian: etcd-server)"


@functools.cache
def _no_netns() -> str | None:
    if os.geteuid() != 0:
        return "network namespaces need root"
    return None if shutil.which("ip") else "ip is not installed (Debian: iproute2)"


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    """A client of the Docker engine that the environment names."""
    client = docker.from_env(timeout=60)
    yield client
    client.close()


@pytest.fixture(scope="session")
def busybox_image(
    engine: docker.DockerClient, busybox_root: Callable[[Mapping[str, str]], bytes]
) -> str:
    """The name of an image with a static busybox and its applets, `sh` and `httpd` among them."""
    repository, _, version = BUSYBOX_IMAGE.partition(":")
    engine.api.import_image_from_data(busybox_root({}), repository=repository, tag=version)
    return BUSYBOX_IMAGE


@pytest.fixture(scope="session")
def busybox_root() -> Callable[[Mapping[str, str]], bytes]:
    """`busybox_root({"www/index": "text"})` is a file system of busybox and executable files."""
    return _busybox_root


def _busybox_root(files: Mapping[str, str]) -> bytes:
    """Return a tar archive of a static busybox, its applets, and `files` by path."""
    listed = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True)
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        tar.add(BUSYBOX.resolve(), "bin/busybox")
        for applet in sorted(set(listed.stdout.split()) - {"busybox"}):
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        for path, text in files.items():
            file = tarfile.TarInfo(path)
            file.size, file.mode = len(text.encode()), 0o755
            tar.addfile(file, io.BytesIO(text.encode()))
        temporary = tarfile.TarInfo("tmp")
        temporary.type, temporary.mode = tarfile.DIRTYPE, 0o1777
        tar.addfile(temporary)
    return content.getvalue()


@dataclass(frozen=True)
class Etcd:
    """A running member: where clients reach it, where its data are, and its process."""

    endpoint: str
    data_dir: Path
    process: subprocess.Popen[str]


@pytest.fixture
def docker_registry(tmp_path: Path) -> Iterator[str]:
    """A real image registry on loopback, which every engine trusts without TLS."""
    program = shutil.which("docker-registry")
    if program is None:
        _leave_out("docker-registry is not installed")
    port = free_port()
    conf = tmp_path / "registry.yml"
    conf.write_text(
        "version: 0.1\nstorage:\n  filesystem:\n"
        f"    rootdirectory: {tmp_path / 'blobs'}\nhttp:\n  addr: 127.0.0.1:{port}\n"
    )
    process = subprocess.Popen(
        [program, "serve", str(conf)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    await_line(process, "listening on")
    yield f"127.0.0.1:{port}"
    stop_process(process)


@pytest.fixture(scope="session")
def _etcd_member(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    member = start_etcd(tmp_path_factory.mktemp("etcd"))
    yield member
    stop_process(member.process)


@pytest.fixture
def etcd(_etcd_member: Etcd) -> str:
    """The client URL of a real etcd of one member, with no keys in it."""
    everything = {"key": "AA==", "range_end": "AA=="}  # "\0" to "\0": all keys
    httpx.post(
        f"{_etcd_member.endpoint}/v3/kv/deleterange", json=everything, timeout=10
    ).raise_for_status()
    return _etcd_member.endpoint


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a real PostgreSQL on a free port of loopback, with one empty database."""
    with started_postgres() as url:
        yield url


@pytest.fixture
def daemons() -> Iterator["Daemons"]:
    """Starts this checkout's commands; all that they keep is in a folder of the test's own."""
    with _daemons() as started:
        yield started


@pytest.fixture(scope="module")
def module_daemons() -> Iterator["Daemons"]:
    """The same, for daemons that all tests of a module share."""
    with _daemons() as started:
        yield started


@contextmanager
def _daemons() -> Iterator["Daemons"]:
    hidden = ("MYXO_", "P2P_", "NOTIFY_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
    # A Unix socket's path may have 108 bytes, which pytest's own folders can exceed.
    with tempfile.TemporaryDirectory(prefix="myxo-") as folder:
        own = {"MYXO_STATE_DIR": f"{folder}/state", "MYXO_CONFIG_DIR": f"{folder}/config"}
        started = Daemons(Path(folder), kept | own)
        try:
            yield started
        finally:
            started.stop_all()


def start_etcd(data_dir: Path, client_port: int = 0, peer_port: int = 0) -> Etcd:
    """Return a started etcd of one member on free ports, or the given ones; it is ready."""
    endpoint = f"http://127.0.0.1:{client_port or free_port()}"
    peers = f"http://127.0.0.1:{peer_port or free_port()}"
    process = subprocess.Popen(
        [
            *("etcd", "--name", "test", "--data-dir", str(data_dir), "--log-level", "info"),
            *("--listen-client-urls", endpoint, "--advertise-client-urls", endpoint),
            *("--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers),
            *("--initial-cluster", f"test={peers}", "--logger", "zap"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    await_line(process, ETCD_READY)
    return Etcd(endpoint, data_dir, process)


@contextmanager
def started_postgres() -> Iterator[str]:
    """Run a PostgreSQL in a folder of its own for the length of a block; yield its URL."""
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)
    if programs is None:
        _leave_out("PostgreSQL is not installed (Debian: postgresql)")
    # It runs as nobody that is root, and only root may give it another user.
    user = "postgres" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="myxo-postgres-") as folder:
        if user is not None:
            shutil.chown(folder, user)
        data, port = f"{folder}/data", free_port()
        made = [str(programs / "initdb"), "-D", data, "-U", "postgres", "--no-sync"]
        subprocess.run(
            [*made, "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8"],
            user=user,
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        # -F: what it stores need not outlast a loss of power.
        command = [str(programs / "postgres"), "-F", "-D", data, "-k", folder]
        process = subprocess.Popen(
            [*command, "-h", "127.0.0.1", "-p", str(port)],
            user=user,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        await_line(process, "ready to accept connections")
        try:
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
        finally:
            process.send_signal(signal.SIGINT)  # it ends whatever its clients are at
            process.wait(STOP_TIMEOUT_S)


@dataclass(frozen=True)
class Daemon:
    """A command that has said READY=1, its process, and where its log is."""

    process: "Forked | subprocess.Popen[bytes]"
    log: Path

    def printed(self) -> str:
        """Return what it has printed so far, stdout and stderr as they came."""
        return self.log.read_text()


@dataclass
class Daemons:
    """Starts commands of this checkout, each ready when this returns; all are stopped at the end.

    State, settings and keys are in a folder of the test's own; `environment` is shared by all.
    """

    folder: Path
    environment: dict[str, str]
    _running: list[Daemon] = field(default_factory=list)

    def __call__(self, *command: str, **environment: str) -> Daemon:
        """Start `command` and return once it is ready; `environment` is for this one alone."""
        number = len(self._running)
        log = self.folder / f"{number}-{command[0]}.log"
        with listening(self.folder / f"{number}.ready") as ready, log.open("wb") as output:
            seen = self.environment | environment | ready.environment
            process = start(command, seen, output)
            daemon = Daemon(process, log)
            self._running.append(daemon)
            if not ready.wait(process, START_TIMEOUT_S):
                code, printed = process.poll(), daemon.printed()
                pytest.fail(f"{log.name} is not ready (exit {code}):\n{printed}")
        return daemon

    def run(self, *command: str, timeout_s: float, **environment: str) -> Completed:
        """Run `command` to its end, whatever that is; `environment` is for this one alone."""
        return template().run(command, self.environment | environment, timeout_s)

    @staticmethod
    def free_port() -> int:
        """Return a TCP port on 127.0.0.1 that was free just now."""
        return free_port()

    def stop_all(self) -> None:
        """Press Ctrl-C on all, the youngest first, and fail if one does not end well."""
        for daemon in reversed(self._running):
            if daemon.process.poll() is None:
                daemon.process.send_signal(signal.SIGINT)
            try:
                daemon.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                daemon.process.kill()
                daemon.process.wait()
                pytest.fail(f"{daemon.log.name} did not stop:\n{daemon.printed()}")


def await_line(process: subprocess.Popen[str], text: str) -> str:
    """Return the first line of the process's output that has `text`; read on in the background."""
    lines: queue.Queue[str | None] = queue.Queue()
    output = process.stdout
    assert output is not None

    def read() -> None:
        with output:
            for line in output:
                lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    seen: list[str] = []
    try:
        while (line := lines.get(timeout=START_TIMEOUT_S)) is not None:
            if text in line:
                return line
            seen.append(line)
    except queue.Empty:
        seen.append(f"(and nothing more for {START_TIMEOUT_S:g} s)")
    process.kill()
    process.wait()
    pytest.fail(f"{process.args!r} never said {text!r}:\n{''.join(seen[-20:])}")


def stop_process(process: subprocess.Popen[str]) -> None:
    """End the process as an operator would, or after 10 s for good."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
