#!/usr/bin/env python3
"""The whole of Myxo on this machine, in the order in which a person would type it.

It prints each command as it runs it: found a network, add a service that runs nowhere, ask for it
twice, stop everything. Docker is used if an engine answers, and plain processes if not. All state
is in a temporary folder.
"""

import argparse
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
from docker.errors import DockerException

ROOT = Path(__file__).resolve().parents[2]
SERVER = "demos/helloworld/helloworldserver"
COMMANDS = Path(sys.executable).parent
SERVICE = "hello-world-server"
IMAGE = "myxo-demo/hello-world-server:1.0"
UP_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0


def engine_name() -> str | None:
    """Return the Docker engine's version, or None if none answers."""
    try:
        version: str = docker.from_env(timeout=10).version()["Version"]
    except (DockerException, OSError):
        return None
    return version


def show(command: list[str]) -> None:
    """Print `command` as it would be typed at the top of the checkout."""
    print(f"\n$ {shlex.join(command)}", flush=True)


def run(command: list[str], environment: dict[str, str]) -> str:
    """Run `command`, show both it and what it prints, and return that."""
    show(command)
    program = COMMANDS / command[0]
    done = subprocess.run(
        [str(program) if program.exists() else command[0], *command[1:]],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if printed := done.stdout.rstrip():
        print(printed, flush=True)
    if done.returncode:
        sys.exit(f"\nthe demo failed: {command[0]} ended with exit code {done.returncode}")
    return done.stdout


def wait_until_ready(up: subprocess.Popen[bytes], ready: socket.socket) -> None:
    """Return when the network has said READY=1; exit if it ends or takes too long."""
    ready.settimeout(0.5)
    deadline = time.monotonic() + UP_TIMEOUT_S
    while time.monotonic() < deadline and up.poll() is None:
        try:
            if b"READY=1" in ready.recv(4096):
                return
        except TimeoutError:
            continue
    reason = "did not get ready" if up.poll() is None else f"ended with exit code {up.returncode}"
    sys.exit(f"the demo failed: `myxo up` {reason}")


@contextmanager
def network(options: list[str], folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """Run `myxo up` and yield when it is ready; stop it at the end."""
    command = ["myxo", "up", *options]
    show(command)
    log = folder / "up.log"
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready,
        log.open("wb") as output,
    ):
        ready.bind(str(folder / "ready"))
        up = subprocess.Popen(
            [str(COMMANDS / "myxo"), *command[1:]],
            env=environment | {"NOTIFY_SOCKET": str(folder / "ready")},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C comes to this script, which stops it in order
        )
        try:
            wait_until_ready(up, ready)
            print(log.read_text().rstrip(), flush=True)
            yield
        except BaseException:
            print(f"\n--- what `myxo up` said ---\n{log.read_text()}", file=sys.stderr)
            raise
        finally:
            stop(up)


def stop(up: subprocess.Popen[bytes]) -> None:
    """Do what Ctrl-C does, and say how long it took."""
    print("\n(Ctrl-C)", flush=True)
    began = time.monotonic()
    up.send_signal(signal.SIGINT)
    try:
        up.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        up.kill()
        sys.exit(f"the demo failed: `myxo up` did not stop in {STOP_TIMEOUT_S:g} s")
    print(f"everything stopped in {time.monotonic() - began:.1f} s")


def add_service(runtime: str, environment: dict[str, str]) -> None:
    """Build what the service is made of and add it under its name."""
    run(["make", "-s", "-C", SERVER], environment)
    if runtime == "docker":
        run(["python", "demos/base_image.py"], environment)
        config = f"{SERVER}/service-conf.json"
        add = ["registry-cli", "add", "--no-push", "--dir", SERVER]
        run([*add, config, IMAGE, SERVICE], environment)
    else:
        command = f"exec {shlex.quote(f'{ROOT / SERVER}/helloworldserver')} $SERVICE_PORT"
        run(["registry-cli", "add", "--process", command, SERVICE], environment)


def ask(port: int, environment: dict[str, str]) -> float:
    """Ask the proxy for the service by curl; return how many milliseconds that took."""
    time_taken = r"answered in %{time_total} s\n"
    url = f"127.0.0.1:{port}/{SERVICE}"
    printed = run(["curl", "-sS", "-i", "--fail", "-w", time_taken, url], environment)
    found = re.search(r"^Hello, world\nanswered in (\S+) s$", printed, re.MULTILINE)
    if found is None:
        sys.exit("\nthe demo failed: the answer is not Hello, world")
    return float(found[1]) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description="shows what Myxo does, on this machine alone")
    parser.add_argument("--runtime", choices=["auto", "docker", "process"], default="auto")
    parser.add_argument("--proxy-port", type=int, default=4200, help="where the proxy listens")
    parser.add_argument("--p2p-listen-addr", default=":4001", help="of the bootstrap node")
    options = parser.parse_args()

    engine = engine_name() if options.runtime != "process" else None
    if options.runtime == "docker" and engine is None:
        sys.exit("the demo cannot run on Docker: no engine answers")
    runtime = "docker" if engine else "process"
    reason = f"Docker engine {engine} answers" if engine else "no Docker engine answers"
    if options.runtime == "process":
        reason = "as asked for"
    print(f"Myxo demo. Runtime: {runtime} ({reason}). Definitions: SQLite.")

    folder = Path(tempfile.mkdtemp(prefix="myxo-demo-"))
    environment = os.environ | {
        "MYXO_STATE_DIR": str(folder / "state"),
        "MYXO_CONFIG_DIR": str(folder / "config"),
    }
    try:
        up = ["--runtime", runtime, "--proxy-port", str(options.proxy_port)]
        up += ["--p2p-listen-addr", options.p2p_listen_addr]
        with network(up, folder, environment):
            add_service(runtime, environment)
            cold_ms = ask(options.proxy_port, environment)
            warm_ms = ask(options.proxy_port, environment)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"\n{SERVICE} ran nowhere. The first request started it and was answered in")
    print(f"{cold_ms:.0f} ms; the second, by the same instance, in {warm_ms:.1f} ms.")
    if runtime == "docker":
        print(f"Images that stay in the engine: {IMAGE} and myxo-demo-base.")


if __name__ == "__main__":
    main()
