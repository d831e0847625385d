"""The path between two machines is cut while both stand, on the host lab: requests go elsewhere."""

import shlex
import sys
import threading
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest

from bench.lab_network import HUB, PROXY_PORT, LabNetwork, lab_network
from bench.netlab.plan import make_plan
from bench.netlab.testing import within
from overlay.spec import ServiceSpec

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(600)]

CLIENT, NEAR, FAR = "client", "near", "far"
SERVICE = "held"

SERVER = """
import http.server, os, socket, sys, time
folder, host = sys.argv[1], socket.gethostname()
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        open(f"{folder}/asked-{host}", "a").write(self.path)
        while self.path == "/held" and os.path.exists(f"{folder}/hold-{host}"):
            time.sleep(0.05)
        self.send_response(200)
        self.send_header("Content-Length", str(len(host)))
        self.end_headers()
        self.wfile.write(host.encode())
    def log_message(self, *_):
        pass
address = ("127.0.0.1", int(os.environ["SERVICE_PORT"]))
http.server.ThreadingHTTPServer(address, Handler).serve_forever()
"""


class Asking:
    """Requests of the client's machine."""

    def __init__(self, network: LabNetwork) -> None:
        self._network = network
        self.answers: list[tuple[int, str]] = []

    def ask(self, path: str = "/") -> tuple[int, str]:
        with closing(HTTPConnection("127.0.0.1", PROXY_PORT)) as connection:
            connection.sock = self._network.connect(CLIENT)
            connection.sock.settimeout(60.0)
            connection.request("GET", f"/{SERVICE}{path}")
            with connection.getresponse() as answer:
                found = answer.status, answer.read().decode()
        self.answers.append(found)
        return found


def test_a_request_whose_path_is_cut_is_answered_by_another_machine(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    plan = make_plan(hosts=[{"name": name} for name in (HUB, CLIENT, NEAR, FAR)], preset="lan")
    with lab_network(plan, allocators=[NEAR, FAR], proxies=[CLIENT], runtime="process") as network:
        network.lab.link(CLIENT, NEAR).set(delay_s=0.001)
        network.lab.link(CLIENT, FAR).set(delay_s=0.05)
        command = [sys.executable, "-c", SERVER, str(tmp_path)]
        network.add({SERVICE: ServiceSpec(process=f"exec {shlex.join(command)}", idle_pause_s=0)})
        asking = Asking(network)
        within(60, lambda: asking.ask() == (200, NEAR), lambda: asking.answers[-3:])
        (tmp_path / f"hold-{NEAR}").touch()
        asked = tmp_path / f"asked-{NEAR}"
        held = threading.Thread(target=asking.ask, args=("/held",))
        asking.answers.clear()
        held.start()
        within(30, lambda: "/held" in asked.read_text(), network.log)
        network.lab.cut(CLIENT, NEAR)
        held.join(60)
        assert asking.answers == [(200, FAR)]
        assert asking.ask() == (200, FAR), "nor is the cut path tried by the next request"
        network.lab.heal()
        (tmp_path / f"hold-{NEAR}").unlink()
        within(60, lambda: asking.ask() == (200, NEAR), lambda: asking.answers[-3:])
