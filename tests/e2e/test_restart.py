"""A proxy is replaced by a new process while it is in use, and nobody notices."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from overlay.control import open_control
from tests.e2e.restart_load import Load, under_load

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SERVER = Path(__file__).with_name("lasting_server.py")


async def test_no_request_fails_while_a_new_process_takes_over(own_network: Any) -> None:
    service = own_network.add_process("lasting", SERVER)
    old = own_network.running["proxy"].process
    load = Load(own_network.port(), service)
    with trio.fail_after(300):
        await load.download(1)  # it runs from now on
        async with under_load(load), trio.open_nursery() as downloads:
            for _ in range(3):
                downloads.start_soon(load.download, 80)
            await trio.sleep(1)
            await trio.to_thread.run_sync(partial(take_over, own_network))
            assert old.poll() is None, "it ends its downloads first"
            await trio.sleep(1)
        code = await trio.to_thread.run_sync(old.wait)
    assert load.failed == []
    assert code == 0
    assert load.counts["kept"] + load.counts["fresh"] > 500, load.counts
    assert load.counts["closed"] == 0, "kept connections go on with the new process"
    assert load.counts["connections"] == 10
    own_network.no_traceback()


async def test_a_request_that_waits_for_a_start_gets_its_answer(
    own_network: Any, tmp_path: Path
) -> None:
    """The call that asks for the start is cut with the old process's part in the overlay."""
    go = tmp_path / "go"
    service = own_network.name("slow")
    conf = tmp_path / "slow.json"
    conf.write_text(json.dumps({"ready_timeout_s": 200}))
    begun = tmp_path / "begun"
    os.mkfifo(begun)
    command = f"echo > {begun}; until [ -e {go} ]; do sleep 0.05; done; "
    command += f"exec {sys.executable} {SERVER}"
    own_network.registry_cli("add", "--conf", str(conf), "--process", command, service)
    load = Load(own_network.port(), service, answer_s=250.0)
    old = own_network.running["proxy"].process
    with trio.fail_after(300):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load.download, 1)
            await trio.to_thread.run_sync(begun.read_text)
            await trio.to_thread.run_sync(partial(take_over, own_network))
            assert load.counts["downloads"] == 1
            go.touch()
        code = await trio.to_thread.run_sync(old.wait)
    assert load.failed == []
    assert code == 0
    own_network.no_traceback()


async def test_a_signal_replaces_the_process_by_one_of_its_kind(own_network: Any) -> None:
    service = own_network.add_process("lasting", SERVER)
    old = own_network.running["proxy"].process
    load = Load(own_network.port(), service)
    control = own_network.daemons.folder / "state" / "run" / f"proxy-{own_network.port()}.sock"
    with trio.fail_after(300):
        await load.download(1)
        for wrong in (("--admin", "nobody"), ("--bootstrap", "nowhere"), ("--tls-cert", "none")):
            command = ["proxy", "--takeover", *wrong, *own_network.commands["proxy"][1:]]
            refused = await trio.to_thread.run_sync(partial(run, own_network, command))
            assert refused.returncode == 2, refused.stderr
        await load.download(1)
        old.send_signal(signal.SIGUSR2)
        assert await trio.to_thread.run_sync(old.wait) == 0
        pid = await serving_at(control)
        try:
            assert pid != old.pid
            await load.download(1)
        finally:
            os.kill(pid, signal.SIGTERM)
            end = os.pidfd_open(pid)
            await trio.lowlevel.wait_readable(end)
            os.close(end)
    assert load.failed == []


def run(network: Any, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command that is to end by itself."""
    return subprocess.run(
        [Path(sys.executable).with_name(command[0]), *command[1:]],
        env=network.daemons.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


CALLER = """
import http.client, os, time
host, failed, count = f"127.0.0.1:{os.environ['PROXY_PORT']}", 0, 0
kept = http.client.HTTPConnection(host, timeout=60)
while not os.path.exists("/dev/shm/stop"):
    for connection in (kept, http.client.HTTPConnection(host, timeout=60)):
        connection.request("GET", "/SERVICE/")
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
        count += 1
    assert not kept.sock is None, "the kept connection was closed"
    time.sleep(0.02)
print(count)
"""


@pytest.mark.docker
async def test_a_container_asks_on_while_the_proxy_on_its_loopback_is_replaced(
    make_network: Any, daemons: Any, echo_image: str, containers_of: Any
) -> None:
    network = make_network(daemons)
    network.found("docker")
    service = network.add_echo(echo_image)
    url = network.url(service)
    old = network.running["proxy"].process
    with trio.fail_after(400):
        assert (await trio.to_thread.run_sync(partial(httpx.get, url, timeout=60))).is_success
        (container,) = containers_of(service)
        script = CALLER.replace("SERVICE", service)
        outcomes = []

        async def call() -> None:
            run = partial(container.exec_run, ["python3", "-c", script])
            outcomes.append(await trio.to_thread.run_sync(run))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await trio.to_thread.run_sync(partial(take_over, network))
            await trio.to_thread.run_sync(old.wait)
            stop = ["python3", "-c", "open('/dev/shm/stop', 'w')"]
            await trio.to_thread.run_sync(partial(container.exec_run, stop))
    (outcome,) = outcomes
    assert outcome.exit_code == 0, outcome.output.decode()
    assert int(outcome.output) > 10
    network.no_traceback()


async def serving_at(control: Path) -> int:
    """Return the process id of the daemon behind a control socket."""
    async with open_control(control, "status") as connection:
        line = await connection.receive()
    assert line is not None
    pid: int = json.loads(line)["pid"]
    return pid


def take_over(network: Any) -> Any:
    """Start a proxy in the place of the one that runs; return once it is ready."""
    network.commands["proxy"] = ("proxy", "--takeover", *network.commands["proxy"][1:])
    return network.restart("proxy")
