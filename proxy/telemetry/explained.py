"""What a client that asked for it is told of its request's decision: fields of the answer."""

from overlay.http.head import Field
from overlay.view import View
from proxy.telemetry.decisions import Decision


def explained(decision: Decision, request_id: str, view: View) -> list[Field]:
    """Return the fields that tell a client how its request was decided."""
    instance = decision.chosen
    fields = [
        (b"X-Request-Id", request_id),
        (b"X-Myxo-Service", f"{decision.service}; revision={decision.revision.revision.number}"),
        (b"X-Myxo-Candidates", str(len(decision.instances))),
        (b"X-Myxo-Starts", str(decision.starts)),
    ]
    if instance is not None:
        fields += [
            (b"X-Myxo-Instance", instance.record.id),
            (b"X-Myxo-Host", view.host_of(instance.owner) or instance.owner),
            (b"X-Myxo-Road", decision.road),
            (b"X-Myxo-Rtt", _ms(0.0 if instance.local else instance.rtt_s)),
        ]
    return [(name, _visible(value)) for name, value in fields]


def _ms(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{seconds * 1000:.3f} ms"


def _visible(value: str) -> bytes:
    """Return a field's value of what peers said: ASCII that can be seen, and blanks."""
    return "".join(c if " " <= c <= "~" else "?" for c in value).encode("ascii")
