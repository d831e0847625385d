"""Whole networks: daemons started one by one on this machine, or hosts in network namespaces.

A host of `lan` is a namespace on a bridge with a home of its own; the daemons of a `Network` share
this machine, as those of one user do.
"""

import io
import itertools
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import httpx
import pytest

from bench.netlab.testing import MakeLab, labs
from overlay.notify import listening
from tests.template import COMMANDS as OURS
from tests.template import Completed, Forked, start, start_inside, template

COMMANDS = Path(sys.executable).parent
READY_TIMEOUT_S = 90.0
COMMAND_TIMEOUT_S = 60.0
PATIENT = {"MYXO_REGISTRY_CLI_TIMEOUT_S": str(COMMAND_TIMEOUT_S / 2)}
"""For `registry-cli`, which a busy machine may keep longer than a person waits."""
_numbers = itertools.count()
"""Of namespaces, whose names all runs on this machine share."""


@dataclass
class Host:
    """A namespace with an address, and the commands that run in it.

    `link` is the namespace and the name of the switch's port that it is plugged into.
    """

    name: str
    address: str
    folder: Path
    link: tuple[str, str]
    running: list["Forked | subprocess.Popen[bytes]"] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What its commands see: a home of this host's own."""
        kept = {
            k: v for k, v in os.environ.items() if not k.startswith(("MYXO_", "P2P_", "NOTIFY_"))
        }
        return kept | {
            "MYXO_STATE_DIR": str(self.folder / "state"),
            "MYXO_CONFIG_DIR": str(self.folder / "config"),
            **PATIENT,
        }

    def start(self, *command: str) -> str:
        """Start a command; return what it printed once it has said READY=1."""
        number = len(self.running)
        log = self.folder / f"{number}.log"
        with listening(self.folder / f"{number}.ready") as ready, log.open("wb") as output:
            process = start(command, self.environment | ready.environment, output, self.name)
            self.running.append(process)
            if ready.wait(process, READY_TIMEOUT_S):
                return log.read_text()
        pytest.fail(f"{command} on {self.name} is not ready:\n{log.read_text()}")

    def run(self, *command: str) -> str:
        """Run a command to its end and return what it printed; fail if it fails."""
        done = self.try_run(*command)
        assert done.returncode == 0, f"{command} on {self.name}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def try_run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, whatever that is."""
        if command[0] in OURS:
            return template().run(command, self.environment, COMMAND_TIMEOUT_S, self.name)
        return subprocess.run(
            self._inside(command),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_TIMEOUT_S,
        )

    @contextmanager
    def running_command(self, *command: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a command beside the test; it is killed at the block's end."""
        with subprocess.Popen(
            self._inside(command),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def cut(self) -> None:
        """Pull the host's network cable."""
        _ip("-n", self.link[0], "link", "set", self.link[1], "down")

    def mend(self) -> None:
        """Put the cable back."""
        _ip("-n", self.link[0], "link", "set", self.link[1], "up")

    def stop(self) -> None:
        """Press Ctrl-C on everything that was started here."""
        for process in reversed(self.running):
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            try:
                process.wait(COMMAND_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _inside(self, command: tuple[str, ...]) -> list[str]:
        program = COMMANDS / command[0]
        first = str(program) if program.exists() else command[0]
        return ["ip", "netns", "exec", self.name, first, *command[1:]]


@pytest.fixture
def lan() -> Iterator["Lan"]:
    """Hosts on one Ethernet; `lan.host()` plugs in the next one."""
    with tempfile.TemporaryDirectory(prefix="myxo-lan-") as folder:
        network = Lan(f"mx{os.getpid()}-{next(_numbers)}", Path(folder))
        try:
            network.create()
            yield network
        finally:
            network.destroy()


@pytest.fixture
def lab() -> Iterator[MakeLab]:
    """`lab(hosts=3, preset="wan")` makes hosts on links that can be slow, lossy and cut.

    What a plan of bench/netlab/plan.py says goes. They end with the test.
    """
    with labs(start_inside) as make:
        yield make


@dataclass
class Lan:
    """A bridge with hosts on it."""

    name: str
    folder: Path
    hosts: list[Host] = field(default_factory=list)

    @property
    def switch(self) -> str:
        """The namespace with the bridge; in one of its own no firewall of this machine sees it."""
        return f"{self.name}-switch"

    def create(self) -> None:
        """Make the bridge."""
        _ip("netns", "add", self.switch)
        _ip("-n", self.switch, "link", "add", "bridge0", "type", "bridge")
        _ip("-n", self.switch, "link", "set", "bridge0", "up")

    def host(self) -> Host:
        """Plug in another host."""
        position = len(self.hosts) + 1
        name, port = f"{self.name}-{position}", f"port{position}"
        folder = self.folder / str(position)
        folder.mkdir()
        host = Host(name, f"10.77.0.{position}", folder, (self.switch, port))
        self.hosts.append(host)
        _ip("netns", "add", name)
        _ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", port, "netns", self.switch)
        _ip("-n", self.switch, "link", "set", port, "master", "bridge0", "up")
        _ip("-n", name, "addr", "add", f"{host.address}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")
        _ip("-n", name, "link", "set", "lo", "up")
        return host

    def destroy(self) -> None:
        """Stop everything and remove it."""
        for host in reversed(self.hosts):
            host.stop()
        for namespace in [*(host.name for host in self.hosts), self.switch]:
            subprocess.run(["ip", "netns", "delete", namespace], check=False)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


# daemons started one by one

PSK = "a passphrase for this test"
ECHO_SERVER = Path(__file__).with_name("echo_server.py")
BASE_IMAGE_MAKER = Path(__file__).resolve().parents[2] / "demos" / "base_image.py"
WORKER_IMAGE_MAKER = BASE_IMAGE_MAKER.with_name("worker_image.py")
WORKER_IMAGE = "myxo-test-e2e-worker:latest"
PYTHON_IMAGE = "myxo-test-e2e-python:latest"
ECHO_IMAGE = "myxo-test-e2e-echo:latest"


@dataclass
class Network:
    """A bootstrap node, a registry, an allocator and a proxy, each a process and restartable.

    Attributes:
        daemons: the fixture that starts commands.
        running: each daemon by its name here: `bootstrap`, `registry`, `allocator`, `proxy`.
    """

    daemons: Any
    running: dict[str, Any] = field(default_factory=dict)
    commands: dict[str, tuple[str, ...]] = field(default_factory=dict)
    address: str = ""
    services: list[str] = field(default_factory=list)

    def found(self, runtime: str, *registry: str) -> None:
        """Start all four; every port is a given one, so that a restart finds it taken if it is."""
        self.start("bootstrap", "bootstrap")
        printed = self.running["bootstrap"].printed()
        self.address = next(line for line in printed.splitlines() if line.startswith("/ip4/"))
        self.join("registry", "registry-service", *registry)
        gateway = f"127.0.0.1:{self.daemons.free_port()}"
        self.join("allocator", "allocator", "--runtime", runtime, "--gateway-listen-addr", gateway)
        self.join("proxy", "proxy", str(self.daemons.free_port()))

    def join(self, name: str, command: str, *flags: str) -> Any:
        """Start a further daemon."""
        return self.start(name, command, "--bootstrap", self.address, *flags)

    def start(self, name: str, command: str, *flags: str) -> Any:
        """Start a daemon under `name`, with which it can be restarted."""
        ports = [f"127.0.0.1:{self.daemons.free_port()}" for _ in range(2)]
        common = ("--psk", PSK, "--p2p-listen-addr", ports[0], "--prom-listen-addr", ports[1])
        self.commands[name] = (command, *common, *flags)
        return self.restart(name)

    def restart(self, name: str) -> Any:
        """Start the daemon `name` with what it was started with before."""
        self.running[name] = self.daemons(*self.commands[name])
        return self.running[name]

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """Send a signal to a daemon and return its exit code."""
        process = self.running[name].process
        process.send_signal(number)
        code: int = process.wait(COMMAND_TIMEOUT_S)
        return code

    @property
    def program_environment(self) -> dict[str, str]:
        """The environment of a program whose user has this network."""
        inherited: dict[str, str] = self.daemons.environment
        return inherited | {
            "P2P_BOOTSTRAPS": self.address,
            "P2P_PSK": PSK,
            "MYXO_PROXY": f"127.0.0.1:{self.port()}",
        }

    def port(self, proxy: str = "proxy") -> int:
        """Return the port on which a proxy of this network takes requests."""
        return int(self.commands[proxy][-1])

    def url(self, name: str, path: str = "/", proxy: str = "proxy") -> str:
        """Return where a proxy answers for a service."""
        return f"http://127.0.0.1:{self.port(proxy)}/{name}{path}"

    def registry_cli(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `registry-cli` to its end; fail if it fails and `check` is set.

        Without `found` it finds the network that `myxo up` runs.
        """
        join = ("--bootstrap", self.address, "--psk", PSK) if self.address else ()
        done: Completed = self.daemons.run(
            *("registry-cli", *join, *arguments),
            timeout_s=COMMAND_TIMEOUT_S,
            **PATIENT,
        )
        assert done.returncode == 0 or not check, f"{arguments}:\n{done.stdout}{done.stderr}"
        return done

    def add_image(self, label: str, base: str, cmd: str, **fields: Any) -> str:
        """Build and register a service that runs `cmd` on the image `base`; return its name."""
        name = self.name(label)
        conf = fields | {"DockerConf": {"From": base, "Cmd": cmd}}
        file = self.daemons.folder / f"{name}.json"
        file.write_text(json.dumps(conf))
        self.registry_cli("add", "--no-push", str(file), f"myxo-test-e2e-{label}:1", name)
        return name

    def add_echo(self, image: str, *, name: str = "", **fields: Any) -> str:
        """Register the echo server in its image; return the service's name."""
        return self._add("--image", image, name, fields)

    def add_echo_process(self, *, name: str = "", **fields: Any) -> str:
        """Register the echo server as a process; return the service's name."""
        command = f"LISTEN=127.0.0.1 exec {sys.executable} {ECHO_SERVER}"
        return self._add("--process", command, name, fields)

    def add_process(self, label: str, script: Path, arguments: str = "", **fields: Any) -> str:
        """Register a Python script as a process; return the service's name."""
        command = f"exec {sys.executable} {script} {arguments}"
        return self._add("--process", command, self.name(label), fields)

    def _add(self, kind: str, what: str, name: str, fields: dict[str, Any]) -> str:
        name = name or self.name("echo")
        file = self.daemons.folder / f"{name}.json"
        file.write_text(json.dumps(fields))
        self.registry_cli("add", "--conf", str(file), kind, what, name)
        return name

    def name(self, label: str) -> str:
        """Return a name that no other test on this engine uses."""
        self.services.append(f"{label}-{secrets.token_hex(3)}")
        return self.services[-1]

    def carried_by_envoy(self, proxy: str, service: str) -> float:
        """Return how many requests a proxy's Envoy took to a service's instances by itself."""
        labels = f'service="{service}"'
        return self.metric(proxy, "myxo_proxy_envoy_requests_total", labels)

    def metric(self, daemon: str, name: str, labels: str) -> float:
        """Return a number of a daemon's metrics; 0 where it is not there."""
        command = self.commands[daemon]
        at = command[command.index("--prom-listen-addr") + 1]
        text = httpx.get(f"http://{at}/metrics", timeout=COMMAND_TIMEOUT_S).text
        found = re.search(rf"^{name}{{{labels}}} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def no_traceback(self) -> None:
        """Fail if any daemon that was ever started here has met a bug."""
        for log in self.daemons.folder.glob("*.log"):
            text = log.read_text()
            at = text.find("Traceback")
            assert at < 0, f"{log.name}:\n{text[max(0, at - 500) : at + 3000]}"


@dataclass
class Stream:
    """A steady stream of GETs; what became of each."""

    answered: list[httpx.Response] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def statuses(self) -> set[int]:
        """Return the statuses of all that were answered."""
        return {answer.status_code for answer in self.answered}

    def await_more(self, count: int, status: int = 200) -> None:
        """Return when `count` further requests were answered with `status`."""
        before = len(self.answered)
        deadline = time.monotonic() + COMMAND_TIMEOUT_S
        while sum(a.status_code == status for a in self.answered[before:]) < count:
            last = self.answered[-1].text if self.answered else ""
            assert time.monotonic() < deadline, (self.failed[-3:], self.statuses(), last)
            time.sleep(0.02)


@pytest.fixture
def stream() -> Callable[[str], Any]:
    """`with stream(url) as seen:` sends a GET every 10 ms, one after the other."""

    @contextmanager
    def running(url: str) -> Iterator[Stream]:
        seen, stop = Stream(), threading.Event()

        def send() -> None:
            with httpx.Client(timeout=30) as client:
                while not stop.wait(0.01):
                    try:
                        seen.answered.append(client.get(url))
                    except httpx.HTTPError as exc:
                        seen.failed.append(repr(exc))

        thread = threading.Thread(target=send)
        thread.start()
        try:
            yield seen
        finally:
            stop.set()
            thread.join()

    return running


@pytest.fixture(scope="session")
def worker_image(engine: docker.DockerClient) -> str:
    """The name of an image that runs workers of maps, and services in Python."""
    maker = [sys.executable, str(WORKER_IMAGE_MAKER), "--tag", WORKER_IMAGE]
    done = subprocess.run(maker, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert engine.images.get(WORKER_IMAGE)
    return WORKER_IMAGE


@pytest.fixture(scope="session")
def echo_image(engine: docker.DockerClient) -> str:
    """The name of an image that runs the echo server."""
    maker = [sys.executable, str(BASE_IMAGE_MAKER), "--tag", PYTHON_IMAGE]
    subprocess.run(maker, check=True, capture_output=True)
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        tar.add(ECHO_SERVER, ECHO_SERVER.name)
        lines = f"FROM {PYTHON_IMAGE}\nCOPY {ECHO_SERVER.name} /\n"
        lines += f'CMD ["python3", "/{ECHO_SERVER.name}"]\n'
        dockerfile = tarfile.TarInfo("Dockerfile")
        dockerfile.size = len(lines)
        tar.addfile(dockerfile, io.BytesIO(lines.encode()))
    context.seek(0)
    engine.images.build(fileobj=context, custom_context=True, tag=ECHO_IMAGE)
    return ECHO_IMAGE


@pytest.fixture(scope="module")
def docker_network(module_daemons: Any, engine: docker.DockerClient) -> Iterator[Network]:
    """A network whose allocator runs containers; shared by a module, its services are not."""
    network = Network(module_daemons)
    network.found("docker")
    yield network
    module_daemons.stop_all()
    left = [c for s in network.services for c in containers(engine, s)]
    for container in left:
        container.remove(force=True)
    assert not left, "the allocator left containers behind"


@pytest.fixture(scope="module")
def process_network(module_daemons: Any) -> Network:
    """A network whose allocator runs processes; shared by a module."""
    network = Network(module_daemons)
    network.found("process")
    return network


@pytest.fixture
def own_network(daemons: Any) -> Network:
    """A network whose allocator runs processes, of one test's own."""
    made = Network(daemons)
    made.found("process")
    return made


@pytest.fixture
def make_network() -> Callable[[Any], Network]:
    """Makes networks that are not started yet, of one `daemons` each."""
    return Network


def containers(engine: docker.DockerClient, service: str) -> list[Any]:
    """Return the containers of a service, whatever state they are in."""
    found: list[Any] = engine.containers.list(
        all=True, ignore_removed=True, filters={"label": f"myxo.service={service}"}
    )
    return found


@pytest.fixture
def hostname_of() -> Callable[[Any], str]:
    """Return a container's host name, which is that of its sandbox if it is in one."""

    def hostname(container: Any) -> str:
        inside = container.attrs["HostConfig"]["NetworkMode"].removeprefix("container:")
        is_own = inside == container.attrs["HostConfig"]["NetworkMode"]
        return str(container.id if is_own else inside)[:12]

    return hostname


@pytest.fixture
def containers_of(engine: docker.DockerClient) -> Callable[[str], list[Any]]:
    """Return the containers of a service, whatever state they are in."""
    return lambda service: containers(engine, service)
