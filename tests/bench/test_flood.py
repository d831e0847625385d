import socket
from collections import Counter

import pytest

from bench.client import read_head
from bench.crowd import Asked
from bench.errors import NetworkFailed
from bench.flood import Bystander, duplicates, report


def asked(status: int | None, first_byte_s: float = 0.5) -> Asked:
    with socket.socket() as sock:
        head = f"HTTP/1.1 {status} X\r\n\r\n".encode()
        answer = None if status is None else read_head(head, first_byte_s)
        return Asked(sock, "http://127.0.0.1:4200/x/", answer)


def test_one_start_of_each_service_on_each_host_is_no_duplicate() -> None:
    assert duplicates({("x", "a1"): 1, ("x", "a2"): 1, ("y", "a1"): 1}) == 0
    assert duplicates({("x", "a1"): 3, ("x", "a2"): 1, ("y", "a1"): 2}) == 3


def test_what_was_refused_and_what_was_not_answered_both_failed() -> None:
    crowd = [asked(200, 1.0), asked(200, 2.0), asked(503), asked(None)]
    starts = Counter({("x", "a1"): 2})
    figures = report(crowd, starts, 4.0, Bystander(), Bystander(), "process").figures
    assert figures["failed"] == 2
    assert figures["failures"] == {"503": 1, "none": 1}
    assert (figures["starts"], figures["duplicate_starts"]) == (2, 1)
    assert (figures["p50_s"], figures["p99_s"]) == (1.0, 2.0)
    assert figures["bystander_cold_s_before"] is None


def test_a_flood_without_any_answer_has_no_figure() -> None:
    with pytest.raises(NetworkFailed, match="'none': 1"):
        report([asked(None)], Counter(), 4.0, Bystander(), Bystander(), "process")
