"""The commands as a person types them, on a real network of real processes."""

import functools
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import docker
import pytest
import trio
import typer
from docker.utils import kwargs_from_env

from bootstrap.service import run as run_bootstrap
from bootstrap.settings import BootstrapSettings
from overlay.cli import run_app
from overlay.errors import SettingsInvalid
from overlay.node import Node
from overlay.settings import NodeSettings
from registry.adding import wanted
from registry.cli import cli_app, service_app
from registry.errors import ConfInvalid
from registry.service import run as run_registry
from registry.settings import RegistrySettings

REGISTRY_CLI = [sys.executable, "-c", "from registry.cli import cli; cli()"]

HELLO_CONF = {
    "NetworkSoftReq": {"RTT": 500},
    "NetworkHardReq": {"RTT": 1000},
    "CpuReq": 0,
    "MemoryReq": 0,
    "DockerConf": {
        "From": "ubuntu:16.04",
        "Copy": [["helloworldserver", "."]],
        "Run": [],
        "Cmd": "./helloworldserver $SERVICE_PORT",
    },
}


class Cli:
    """Runs commands with a home of their own."""

    def __init__(self, home: Path, bootstrap: str) -> None:
        self.home = home
        self.bootstrap = bootstrap

    async def __call__(
        self, *arguments: str, user: str = "alice"
    ) -> "subprocess.CompletedProcess[bytes]":
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("MYXO_", "P2P_"))}
        environment["MYXO_CONFIG_DIR"] = str(self.home / user)
        environment["MYXO_STATE_DIR"] = str(self.home / user / "state")
        with trio.fail_after(60):
            return await trio.run_process(
                [*REGISTRY_CLI, *arguments],
                env=environment,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )

    async def ok(self, *arguments: str, user: str = "alice") -> str:
        done = await self("-bootstrap", self.bootstrap, *arguments, user=user)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    async def fails(self, code: int, *arguments: str, user: str = "alice") -> str:
        done = await self("-bootstrap", self.bootstrap, *arguments, user=user)
        assert done.returncode == code, done.stdout.decode()
        error = done.stderr.decode()
        assert "Traceback" not in error
        return error


@pytest.fixture
async def cli(tmp_path: Path, nursery: trio.Nursery) -> Cli:
    fields = {"p2p_listen_addr": "127.0.0.1:0", "prom_listen_addr": "127.0.0.1:0"}

    async def started(service: Any, settings: NodeSettings) -> Node:
        ready, heard = trio.open_memory_channel[Node](1)
        nursery.start_soon(functools.partial(service, settings, ready=ready.send_nowait))
        with trio.fail_after(30):
            return await heard.receive()

    node = await started(
        run_bootstrap, BootstrapSettings.load({**fields, "state_dir": tmp_path / "b"})
    )
    address = f"{node.record.addresses[0]}/p2p/{node.peer_id}"
    settings = {**fields, "state_dir": tmp_path / "r", "bootstraps": (address,)}
    await started(run_registry, RegistrySettings.load(settings))
    return Cli(tmp_path, address)


@pytest.mark.slow
async def test_a_service_lives_from_add_to_delete(cli: Cli) -> None:
    assert json.loads(await cli.ok("list", "--json")) == []
    first = await cli.ok("add", "--process", "serve $SERVICE_PORT", "hello")
    assert "revision 1" in first
    assert "unchanged" in await cli.ok("add", "--process", "serve $SERVICE_PORT", "hello")
    await cli.ok("add", "--process", "serve2 $SERVICE_PORT", "hello")
    assert "hello" in await cli.ok("list")
    shown = json.loads(await cli.ok("get", "--json", "hello"))
    assert (shown["revision"], shown["spec"]["process"]) == (2, "serve2 $SERVICE_PORT")
    await cli.ok("rollback", "hello", "1")
    history = json.loads(await cli.ok("history", "hello", "--json"))
    assert [h["spec"]["process"].split()[0] for h in history] == ["serve", "serve2", "serve"]
    refused = await cli.fails(1, "delete", "hello", user="bob")
    assert shown["owner"] in refused
    await cli.ok("delete", "hello")
    assert "no service hello" in await cli.fails(1, "get", "hello")
    await cli.ok("add", "--process", "true", "hello", user="bob")


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    """A base image by a name of its own, of one static busybox."""
    client = docker.APIClient(version="auto", **kwargs_from_env())
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add("/bin/busybox", "bin/busybox")
        link = tarfile.TarInfo("bin/sh")
        link.type, link.linkname = tarfile.SYMTYPE, "busybox"
        tar.addfile(link)
    name = f"myxo-test-cli-{uuid4().hex[:8]}"
    client.import_image_from_data(archive.getvalue(), repository=name, tag="1")
    yield f"{name}:1"
    client.remove_image(f"{name}:1", force=True)
    client.close()


@pytest.mark.docker
@pytest.mark.slow
async def test_the_first_readmes_line_builds_and_registers(
    cli: Cli, base: str, tmp_path: Path
) -> None:
    sources = tmp_path / "helloworldserver"
    sources.mkdir()
    (sources / "helloworldserver").write_text("#!/bin/sh\n")
    conf: dict[str, Any] = json.loads(json.dumps(HELLO_CONF))
    conf["DockerConf"]["From"] = base
    (sources / "service-conf.json").write_text(json.dumps(conf, indent=4))
    tag = f"myxo-test-{uuid4().hex[:8]}/hello-world-server:1.0"
    directory = ("--dir", str(sources))
    try:
        arguments = (*directory, "service-conf.json", tag, "hello-world-server")
        done = await cli("-bootstrap", cli.bootstrap, "add", "-no-push", *arguments)
        assert done.returncode == 0, done.stderr.decode()
        assert "Step 1/" in done.stderr.decode()
        assert "fetch it from those that have it" in done.stderr.decode()
        shown = json.loads(await cli.ok("get", "hello-world-server", "--json"))
        spec = shown["spec"]
        assert spec["image"]["reference"] == tag
        assert (spec["soft_rtt_ms"], spec["hard_rtt_ms"]) == (500, 1000)
        assert (spec["read_only"], spec["cap_drop_all"]) == (True, True)
        stock = json.loads(await cli.ok("add", "--image", tag, "--json", "stock"))
        assert (stock["revision"], stock["spec"]["port"]) == (1, 8080)
        pushed = await cli.fails(1, "add", *arguments[:-1], "not-pushed")
        assert "--no-push" in pushed
        assert "no service not-pushed" in await cli.fails(1, "get", "not-pushed")
    finally:
        await trio.run_process(["docker", "rmi", "-f", tag], capture_stdout=True, check=False)


# wrong usage, in this process: nothing is joined


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [n for n in os.environ if n.startswith(("MYXO_", "P2P_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MYXO_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("MYXO_STATE_DIR", str(tmp_path / "state"))
    return tmp_path


def _exit_code(app: typer.Typer, *arguments: str) -> object:
    with pytest.raises(SystemExit) as left:
        run_app(app, "registry-cli", arguments)
    return left.value.code


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("list",), 2, "no bootstrap node is named"),
        (("add", "hello"), 2, "forms: add CONFIG IMAGE NAME"),
        (("add", "--image", "a", "--process", "b", "c"), 2, "not both"),
        (("get", "../x"), 1, "is not a service name"),
        (("get", "a%2Fb"), 1, "is not a service name"),
        (("frobnicate",), 2, "frobnicate"),
        (("add", "none.json", "a/b:1", "hello"), 1, "none.json cannot be read"),
    ],
)
@pytest.mark.usefixtures("home")
def test_wrong_usage_is_explained_and_has_an_exit_code(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, reason: str
) -> None:
    assert _exit_code(cli_app, *arguments) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert reason in said.err


@pytest.mark.parametrize("sub_command", ["add", "get", "list", "delete", "history", "rollback"])
def test_every_sub_command_has_help_with_an_example(
    capsys: pytest.CaptureFixture[str], sub_command: str
) -> None:
    assert _exit_code(cli_app, sub_command, "-h") == 0
    assert f"registry-cli {sub_command}" in capsys.readouterr().out


@pytest.mark.usefixtures("home")
def test_the_service_says_that_it_needs_a_bootstrap(capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit_code(service_app, "--new-etcd-cluster") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no bootstrap node is named" in line


# what the arguments of `add` mean


def test_a_configuration_is_found_beside_the_sources(tmp_path: Path) -> None:
    (tmp_path / "service-conf.json").write_text(json.dumps(HELLO_CONF))
    want = wanted(
        ["service-conf.json", "alice/hello:1.0", "hello"],
        image=None,
        process=None,
        conf=None,
        directory=tmp_path,
    )
    assert (want.build, want.name) == ("alice/hello:1.0", "hello")


def test_a_configuration_may_name_the_image_itself(tmp_path: Path) -> None:
    conf = tmp_path / "web.yaml"
    conf.write_text("image: nginx:1.25\nMemoryReq: 64\n")
    want = wanted([str(conf), "web"], image=None, process=None, conf=None, directory=tmp_path)
    assert (want.stock, want.conf.spec) == ("nginx:1.25", {"memory_mib": 64})


def test_a_process_takes_what_the_configuration_of_an_image_says_besides(tmp_path: Path) -> None:
    conf = tmp_path / "service-conf.json"
    conf.write_text(json.dumps(HELLO_CONF | {"MemoryReq": 64}))
    want = wanted(["hello"], image=None, process="exec hello", conf=conf, directory=tmp_path)
    assert want.process == "exec hello"
    assert want.build is None
    assert want.conf.spec["memory_mib"] == 64
    conf.write_text("image: nginx")
    with pytest.raises(ConfInvalid, match="so does --process"):
        wanted(["hello"], image=None, process="exec hello", conf=conf, directory=tmp_path)


@pytest.mark.slow
async def test_who_is_waited_for_is_said(cli: Cli) -> None:
    port = cli.bootstrap.split("/")[4]
    nobody = cli.bootstrap.replace(f"/{port}/", "/1/")
    done = await cli("-bootstrap", nobody, "list")
    assert done.returncode == 1
    waiting, failed = done.stderr.decode().splitlines()
    assert waiting.startswith(f"waiting for the registry of the network at {nobody}")
    assert failed.startswith("error: no bootstrap node answered")


def test_what_runs_is_said_once(tmp_path: Path) -> None:
    conf = tmp_path / "service-conf.json"
    conf.write_text(json.dumps(HELLO_CONF))
    with pytest.raises(ConfInvalid, match="so does --image"):
        wanted(["hello"], image="nginx", process=None, conf=conf, directory=tmp_path)
    with pytest.raises(SettingsInvalid, match="--conf goes with"):
        wanted(["a", "b"], image=None, process=None, conf=conf, directory=tmp_path)
    with pytest.raises(SettingsInvalid, match="names no image"):
        wanted([str(conf), "b"], image=None, process=None, conf=None, directory=tmp_path)
