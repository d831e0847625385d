import json
import os
import re
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker
import pytest
import trio
from typer.testing import CliRunner

from bench.lab.cli import app
from bench.lab.errors import BadInput
from bench.lab.queueing.engine import IMAGE, EngineFailed, engine_of, spoken
from bench.lab.traces import rows
from bench.network import network
from myxo.why import read_why
from overlay.cli import with_two_dashes
from overlay.testing_ports import free_port

ROOT = Path(__file__).resolve().parents[3]
BASE = "myxo-test-queue-base:latest"

GENERAL = """SAMPLES=60\nSIZE=500\nINTER_ARRIVAL=1\nREAD_RATIO=80\nSAS=5493\nDISTRIBUTION=3
MEAN=1\nSTDEV=1\nCONCURRENCY=1\nST=2\nDELAY=10\n"""


def lab(*arguments: object, code: int = 0) -> str:
    """Return what `myxo lab …` prints."""
    done = CliRunner().invoke(app, with_two_dashes([str(one) for one in arguments]))
    assert done.exit_code == code, done.output
    return done.output


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    lab("trace", "gen", "--samples", 300, "--seed", 7, "-o", path)
    return path


def test_flags_have_the_seeds_nine_names_and_beat_the_file(tmp_path: Path) -> None:
    env = tmp_path / ".env.general"
    env.write_text(GENERAL)
    by_file = lab("trace", "gen", "--env", env)
    assert len(by_file.splitlines()) == 60
    nine = {"samples": 60, "size": 500, "inter-arrival": 1, "read-ratio": 80, "sas": 5493}
    nine |= {"distribution": 3, "mean": 1, "stdev": 1, "concurrency": 1}
    flags = [text for name, value in nine.items() for text in (f"--{name}", value)]
    assert lab("trace", "gen", *flags) == by_file
    assert len(lab("trace", "gen", "--env", env, "--samples", 5).splitlines()) == 5


def test_a_trace_is_summed_up(trace: Path) -> None:
    found = json.loads(lab("trace", "summary", trace, "--json"))
    assert found["requests"] == 300
    assert f"{found['gap_mean']:.4f}" in lab("trace", "summary", trace)


def test_a_split_writes_a_file_for_each_worker(trace: Path, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    told = json.loads(
        lab("trace", "split", trace, "--workers", 3, "--policy", "tc", "-o", parts, "--json")
    )
    shares = [rows.read(Path(one["file"])) for one in told]
    assert [path.name for path in sorted(parts.iterdir())] == [f"trace.w{n}.csv" for n in (1, 2, 3)]
    assert [one["requests"] for one in told] == [len(share) for share in shares]
    assert [one["mean_gap"] for one in told] == [rows.mean_gap(share) for share in shares]
    everything = sorted(request.arrival for share in shares for request in share)
    assert everything == [request.arrival for request in rows.read(trace)]
    lab("trace", "split", trace)
    assert trace.with_name("trace.w1.csv").exists()


def test_an_import_says_which_line_is_wrong(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("ts\n1\nx\n")
    said = lab("trace", "import", log, "--columns", "arrival=ts", code=1)
    assert f"error: line 3 of {log}: arrival is 'x'" in said
    log.write_text("ts\n1\n4\n")
    assert lab("trace", "import", log, "--columns", "arrival=ts") == (
        "0.000000,1,read,0,1\n3.000000,1,read,0,1\n"
    )


def test_the_book_is_reproduced() -> None:
    found = lab("sim", "mm1", "1.0", "0.5", "1000", "--book")
    assert re.search(r"Average delay in queue +\| +0\.430 ", found)
    assert re.search(r"Time simulation ended +\| +1,027\.915 ", found)


@pytest.mark.parametrize(
    "model", [("mm1", 1, 0.8), ("mmc", 1, 2.4, "--servers", 3), ("md1", 1, 0.8)]
)
def test_models_print_theory_beside_what_was_simulated(model: tuple[object, ...]) -> None:
    name, interarrival, service, *flags = model
    found = json.loads(lab("sim", name, interarrival, service, 20_000, *flags, "--json"))
    assert found["average_delay"] == pytest.approx(found["expected"]["delay"], rel=0.3)
    assert found["customers"] == 20_000


def test_an_overload_is_said_to_be_one() -> None:
    assert "The load is 2.00: the queue grows without end." in lab("sim", "mm1", 1, 2, 100)


def test_a_trace_is_served_by_workers(trace: Path) -> None:
    found = json.loads(lab("sim", "trace", trace, "--st", 2, "--policy", "p2c", "--json"))
    assert sum(one["share"] for one in found["workers"]) == 300
    assert len(found["workers"]) == 3
    assert found["all"]["customers"] == 300
    assert "100.0%" in lab("sim", "trace", trace, "--st", 2)
    assert "use --st" in lab("sim", "trace", trace, code=1)


def test_a_comparison_has_a_row_for_each_policy_and_number_of_workers(tmp_path: Path) -> None:
    plot = tmp_path / "policies.svg"
    arguments = ("compare", "--samples", 300, "--workers", "1,3", "--policy", "rr,tc")
    found = json.loads(lab(*arguments, "--runs", 2, "--load", 0.7, "--plot", plot, "--json"))
    assert [(row["workers"], row["policy"]) for row in found] == [
        *((1, "round_robin"), (1, "least_request")),
        *((3, "round_robin"), (3, "least_request")),
    ]
    assert all(row["utilisation"]["mean"] == pytest.approx(0.7, rel=0.2) for row in found)
    assert "<svg" in plot.read_text()
    assert "two of them" not in lab(*arguments, "--runs", 1)
    both = lab(*arguments, "--st", 1, "--load", 1, code=1)
    assert "--st and --load both say" in both
    assert "it must be 1 to" in lab(*arguments, "--runs", 0, code=1)


def test_without_the_extra_it_says_what_to_install() -> None:
    """Where numpy cannot be imported."""
    program = (
        "import sys; sys.modules['numpy'] = None\n"
        "from bench.lab.cli import main\n"
        "sys.argv[1:] = ['sim', 'mm1', '1', '0.5', '10']\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == (
        "myxo lab sim needs numpy, which is not installed: pip install 'myxo[lab]'\n"
    )


def test_results_without_a_run_say_how_to_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MYXO_STATE_DIR", str(tmp_path))
    assert "no run was kept yet" in lab("results", code=1)


def in_own_state(tmp_path: Path, *arguments: object, **variables: str) -> dict[str, Any]:
    """Return the result of `myxo lab queues run`, in a process and with a state of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.lab", "queues", "run", *map(str, arguments), "--json"],
        env=os.environ
        | {"MYXO_STATE_DIR": str(tmp_path / "state"), "MYXO_CONFIG_DIR": str(tmp_path / "config")}
        | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def as_simulated(trace: Path, found: dict[str, Any], *flags: object) -> None:
    """Compare what workers found with what the simulation in one process finds."""
    expected = json.loads(lab("sim", "trace", trace, *flags, "--json"))["workers"]
    assert [one["figures"] for one in found["workers"]] == [one["figures"] for one in expected]
    assert [one["share"] for one in found["workers"]] == [one["share"] for one in expected]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_workers_as_processes_find_what_the_simulation_finds(
    trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ("--workers", 3, "--policy", "tc", "--st", 2, "--delay", 50)
    found = in_own_state(tmp_path, "--trace", trace, *flags, "--runtime", "process")
    as_simulated(trace, found, *flags)
    assert found["name"] == "W3_least_request_T1"
    monkeypatch.setenv("MYXO_STATE_DIR", str(tmp_path / "state"))
    assert lab("results") == "W3_least_request_T1\n"
    assert json.loads(lab("results", "W3_least_request_T1", "--json")) == found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_workers_run_in_the_network_that_this_machine_is_in(trace: Path) -> None:
    flags = ("--trace", trace, "--workers", 2, "--st", 2, "--runtime", "process")
    with network("process") as here:
        found = in_own_state(here.folder, *flags, MYXO_PROXY=f"127.0.0.1:{here.proxy_port}")
        as_simulated(trace, found, "--workers", 2, "--st", 2)
        asked = json.dumps(trio.run(read_why, here.folder / "state", ""))
        assert len(set(re.findall(r"queue-worker-\w+-\d", asked))) == 2
        assert "queue-worker" not in here.registry_cli("list")


@pytest.fixture(scope="module")
def base_image(engine: docker.DockerClient) -> Iterator[str]:
    """An image with python3 and a shell, which needs no registry."""
    maker = [sys.executable, str(ROOT / "demos" / "base_image.py"), "--tag", BASE]
    done = subprocess.run(maker, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    yield BASE
    for image in (IMAGE, BASE):
        engine.images.remove(image, force=True)


@pytest.fixture
def engine_at_a_port() -> Iterator[tuple[str, int]]:
    """The engine of this machine at a TCP port, as SERVER_IP and SERVER_PORT name it."""
    path = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")

    class Forward(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.socket(socket.AF_UNIX) as there:
                there.connect(path)
                back = threading.Thread(target=pump, args=(there, self.request))
                back.start()
                pump(self.request, there)
                back.join()

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    with Server(("127.0.0.1", 0), Forward) as server:
        threading.Thread(target=server.serve_forever).start()
        yield "127.0.0.1", server.server_address[1]
        server.shutdown()


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Hand on what comes, and its end."""
    with suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_workers_are_a_container_each(trace: Path, tmp_path: Path, base_image: str) -> None:
    flags = ("--workers", 3, "--policy", "rr", "--st", 2)
    found = in_own_state(
        tmp_path, "--trace", trace, *flags, "--runtime", "docker", "--base", base_image
    )
    as_simulated(trace, found, *flags)
    assert found["about"]["runtime"] == "docker"
    assert len({one["host"] for one in found["workers"]}) == 3


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_workers_run_on_the_engine_that_the_file_names(
    engine_at_a_port: tuple[str, int], tmp_path: Path, base_image: str
) -> None:
    host, port = engine_at_a_port
    env = tmp_path / ".env.general"
    env.write_text(f"{GENERAL}SERVER_IP={host}\nSERVER_PORT={port}\nAPI_VERSION=v1.41\n")
    flags = ("--env", env, "--workers", 2, "--base", base_image)
    found = in_own_state(tmp_path, *flags, DOCKER_HOST="unix:///nowhere")
    assert found["about"]["runtime"] == "docker"
    assert [one["figures"]["customers"] for one in found["workers"]] == [10, 10]


@pytest.mark.docker
def test_an_engine_that_does_not_speak_the_version_says_so(
    engine_at_a_port: tuple[str, int],
) -> None:
    host, port = engine_at_a_port
    said = {"SERVER_IP": host, "SERVER_PORT": str(port)}
    negotiated = engine_of(said)
    assert negotiated is not None
    assert float(spoken(negotiated)) >= 1.24
    unknown = engine_of(said | {"API_VERSION": "v9.99"})
    assert unknown is not None
    with pytest.raises(EngineFailed, match=r"in version 9\.99: .*too new"):
        spoken(unknown)


def test_an_engine_that_is_not_there_says_where_it_was_looked_for() -> None:
    at = engine_of({"SERVER_IP": "127.0.0.1", "SERVER_PORT": str(free_port())})
    assert at is not None
    with pytest.raises(EngineFailed, match=r"no Docker engine answers at tcp://127\.0\.0\.1"):
        spoken(at)
    assert engine_of({"ST": "1"}) is None


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"SERVER_PORT": "http"}, "SERVER_PORT is 'http'"),
        ({"SERVER_PORT": "65536"}, "SERVER_PORT is '65536'"),
        ({"API_VERSION": "latest"}, "API_VERSION is 'latest'; write it as v1.41"),
    ],
)
def test_an_engine_that_is_no_address_is_refused(said: dict[str, str], why: str) -> None:
    with pytest.raises(BadInput, match=why):
        engine_of({"SERVER_IP": "10.0.0.1"} | said)
