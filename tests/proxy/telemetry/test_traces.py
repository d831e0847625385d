from overlay.http.head import parse_request_head
from proxy.telemetry.traces import Trace, trace_id_of

TRACE = "0af7651916cd43dd8448eb211c80319c"


def id_in(value: str) -> str:
    head = parse_request_head(f"GET / HTTP/1.1\r\nHost: h\r\nTraceParent: {value}\r\n\r\n".encode())
    return trace_id_of(head.headers)


def test_the_trace_that_a_client_names_is_found() -> None:
    assert id_in(f"00-{TRACE}-b7ad6b7169203331-01") == TRACE
    assert id_in(f"cc-{TRACE}-b7ad6b7169203331-01-of-a-later-version") == TRACE


def test_what_is_no_trace_context_names_none() -> None:
    for value in ("", "00", f"00-{TRACE.upper()}-b7ad6b7169203331-01", f"00-{TRACE}-short-01"):
        assert id_in(value) == ""
    assert trace_id_of(()) == ""


def test_the_instance_is_told_our_span_instead_of_the_clients() -> None:
    trace = Trace(TRACE, ((b"traceparent", b"ours"),), None)
    fields = [(b"Traceparent", b"theirs"), (b"Accept", b"*/*"), (b"TRACESTATE", b"theirs")]
    assert trace.passed_on(fields) == [(b"Accept", b"*/*"), (b"traceparent", b"ours")]
