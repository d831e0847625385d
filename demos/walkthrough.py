"""A demo as a person would type it: each command is printed, run, and what it says is shown.

The network is `myxo up` with all of its state in a temporary folder, so nothing of the user's is
touched. Docker is used if an engine answers, and plain processes if not.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import docker
from docker.errors import DockerException

from overlay.notify import listening

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = Path(sys.executable).parent
PROXY_PORT, P2P_ADDRESS = 4200, ":4001"
"""Those of `myxo up`, which is shown without flags where it needs none."""

UP_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0


def parser(description: str) -> argparse.ArgumentParser:
    """Return the parser of the options that every demo has."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--runtime", choices=["auto", "docker", "process"], default="auto")
    made.add_argument("--proxy-port", type=int, default=PROXY_PORT, help="where the proxy listens")
    made.add_argument("--p2p-listen-addr", default=P2P_ADDRESS, help="of the bootstrap node")
    return made


@dataclass(frozen=True, slots=True)
class Walkthrough:
    """A network that is up, and who types.

    Attributes:
        runtime: docker or process.
        proxy: HOST:PORT of the proxy.
        environment: what commands see.
    """

    runtime: str
    proxy: str
    environment: dict[str, str]

    def run(self, *command: str, quiet: bool = False) -> str:
        """Run `command`, show both it and what it prints, and return that; exit if it fails."""
        show(command)
        program = COMMANDS / command[0]
        done = subprocess.run(
            [str(program) if program.exists() else command[0], *command[1:]],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if (printed := done.stdout.rstrip()) and not (quiet and done.returncode == 0):
            print(printed, flush=True)
        if done.returncode:
            sys.exit(f"\nthe demo failed: {command[0]} ended with exit code {done.returncode}")
        return done.stdout

    def add(self, name: str, folder: str, image: str, command: str, *, sources: str) -> None:
        """Add the service `name`, whose service-conf.json is in `folder`.

        Args:
            name: the service's.
            folder: below the checkout.
            image: what is built where containers run.
            command: what runs where there are none.
            sources: what the files to copy are below.
        """
        conf = f"{folder}/service-conf.json"
        if self.runtime == "docker":
            add = ["registry-cli", "add", "--no-push", "--dir", sources]
            printed = self.run(*add, conf, image, name, quiet=True)
            print(printed.rstrip().splitlines()[-1], flush=True)
        else:
            self.run("registry-cli", "add", "--conf", conf, "--process", command, name)

    def ask(self, path: str, *flags: str, expect: str) -> float:
        """Ask the proxy by curl; return the milliseconds that it took.

        `expect` is a pattern that the answer must have; the demo ends if it has not.
        """
        curl = ["curl", "-sS", "--fail", *flags, "-w", r"answered in %{time_total} s\n"]
        printed = self.run(*curl, f"{self.proxy}/{path}")
        found = re.search(r"^answered in (\S+) s$", printed, re.MULTILINE)
        if found is None or re.search(expect, printed) is None:
            sys.exit(f"\nthe demo failed: the answer is not {expect}")
        return float(found[1]) * 1000

    def instances(self) -> dict[str, int]:
        """Return how many instances of which service there are."""
        done = subprocess.run(
            [str(COMMANDS / "myxo"), "status", "--json"],
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return dict(Counter(each["service"] for each in json.loads(done.stdout)["instances"]))


def show(command: tuple[str, ...]) -> None:
    """Print `command` as it would be typed at the top of the checkout."""
    print(f"\n$ {shlex.join(command)}", flush=True)


@contextmanager
def walkthrough(options: argparse.Namespace) -> Iterator[Walkthrough]:
    """Found a network for the length of a block, on the runtime that is asked for or there."""
    runtime = _chosen(options.runtime)
    folder = Path(tempfile.mkdtemp(prefix="myxo-demo-"))
    environment = os.environ | {
        "MYXO_STATE_DIR": str(folder / "state"),
        "MYXO_CONFIG_DIR": str(folder / "config"),
    }
    up = ["myxo", "up", "--runtime", runtime]
    if options.proxy_port != PROXY_PORT:
        up += ["--proxy-port", str(options.proxy_port)]
    if options.p2p_listen_addr != P2P_ADDRESS:
        up += ["--p2p-listen-addr", options.p2p_listen_addr]
    try:
        with _running(tuple(up), folder, environment):
            yield Walkthrough(runtime, f"127.0.0.1:{options.proxy_port}", environment)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _chosen(asked: str) -> str:
    engine = _engine_name() if asked != "process" else None
    if asked == "docker" and engine is None:
        sys.exit("the demo cannot run on Docker: no engine answers")
    runtime = "docker" if engine else "process"
    reason = f"Docker engine {engine} answers" if engine else "no Docker engine answers"
    if asked == "process":
        reason = "as asked for"
    print(f"Myxo demo. Runtime: {runtime} ({reason}). Definitions: SQLite.")
    return runtime


def _engine_name() -> str | None:
    """Return the Docker engine's version, or None if none answers."""
    try:
        version: str = docker.from_env(timeout=10).version()["Version"]
    except (DockerException, OSError):
        return None
    return version


@contextmanager
def _running(command: tuple[str, ...], folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """Run `myxo up` and yield when it is ready; stop it at the end."""
    show(command)
    log = folder / "up.log"
    with listening(folder / "ready") as ready, log.open("wb") as output:
        up = subprocess.Popen(
            [str(COMMANDS / command[0]), *command[1:]],
            cwd=ROOT,
            env=environment | ready.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C comes to this script, which stops it in order
        )
        try:
            if not ready.wait(up, UP_TIMEOUT_S):
                code = up.poll()
                how = "did not get ready" if code is None else f"ended with exit code {code}"
                sys.exit(f"the demo failed: `myxo up` {how}")
            print(log.read_text().rstrip(), flush=True)
            yield
        except BaseException:
            print(f"\n--- what `myxo up` said ---\n{log.read_text()}", file=sys.stderr)
            raise
        finally:
            _stop(up)


def _stop(up: "subprocess.Popen[bytes]") -> None:
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
