"""`myxo forward` to a container, with real daemons and a real engine."""

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.docker]

MYXO = Path(sys.executable).with_name("myxo")
TIMEOUT_S = 60.0

LATE = """
import os, socket, time
time.sleep(1)
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("0.0.0.0", int(os.environ["SERVICE_PORT"])))
while True:
    said, sender = sock.recvfrom(65536)
    sock.sendto(said.upper(), sender)
"""


def test_a_container_that_binds_its_port_late_is_ready_for_the_first_datagram(
    docker_network: Any, echo_image: str
) -> None:
    name = docker_network.add_image(
        "late", echo_image, 'exec python3 -c "$PROGRAM"', protocol="udp", env={"PROGRAM": LATE}
    )
    with (
        subprocess.Popen(
            [MYXO, "forward", name],
            env=docker_network.daemons.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        ) as forward,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        try:
            assert forward.stdout is not None
            line = forward.stdout.readline()
            found = re.match(r"127\.0\.0\.1:(\d+) -> ", line)
            assert found, line
            sock.connect(("127.0.0.1", int(found[1])))
            sock.settimeout(TIMEOUT_S)
            sock.send(b"first")
            assert sock.recv(100) == b"FIRST"
        finally:
            forward.send_signal(signal.SIGINT)
