"""Readiness, said the way systemd hears it (sd_notify(3)); `myxo up` listens the same way."""

import os
import socket


def notify(state: str) -> None:
    """Send `state`, such as `READY=1`, to whoever started this process, if it listens."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.connect("\0" + path[1:] if path.startswith("@") else path)
            sock.send(state.encode())
        except OSError:
            return
