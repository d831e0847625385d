"""Spans of requests, made and exported by OpenTelemetry's own SDK (extra `myxo[otel]`).

Each request is a SERVER span whose context the instance is told as its parent, so that what the
instance does hangs below it. A request that waited for a start has a child for each phase of that.
Sampling, service name, headers and everything else are the SDK's, by its usual variables.
"""

from time import perf_counter, time_ns

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Span as RecordedSpan
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    format_trace_id,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from overlay.http.head import RequestHead, get
from proxy.telemetry.decisions import Decision, Failure
from proxy.telemetry.traces import TRACEPARENT, TRACESTATE, Trace

FLUSH_MS = 2000
"""How long the proxy waits at its end for the exporter."""

_SERVER_ERROR = 500
_FIELDS = (TRACEPARENT, TRACESTATE)
_W3C = TraceContextTextMapPropagator()


class OtelTracer:
    """Has spans exported by OTLP over HTTP.

    Args:
        endpoint: the collector's URL, such as `http://127.0.0.1:4318`; "" leaves it to
            `OTEL_EXPORTER_OTLP_ENDPOINT`.
        host: this machine's name.
        peer: this proxy's peer id.
    """

    def __init__(self, endpoint: str, host: str, peer: str) -> None:
        url = f"{endpoint.rstrip('/')}/v1/traces" if endpoint else None
        resource = Resource.create(
            {"service.name": "myxo-proxy", "host.name": host, "service.instance.id": peer}
        )
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)))
        self._tracer: Tracer = self._provider.get_tracer("myxo.proxy")

    def begin(self, head: RequestHead, decision: Decision, request_id: str) -> Trace:
        """Return the span of a request that begins, below the client's if it named one."""
        method = head.method.decode("latin-1")
        span = self._tracer.start_span(
            f"{method} {decision.service}",
            context=_W3C.extract(_carried(head)),
            kind=SpanKind.SERVER,
            start_time=time_ns() - int((perf_counter() - decision.timing.started) * 1e9),
            attributes={
                "http.request.method": method,
                "url.path": head.target.partition(b"?")[0].decode("latin-1"),
                "myxo.service": decision.service,
                "myxo.revision": decision.revision.revision.number,
                "myxo.request_id": request_id,
            },
        )
        told: dict[str, str] = {}
        _W3C.inject(told, context=set_span_in_context(span))
        fields = tuple((name.encode(), value.encode()) for name, value in told.items())
        return Trace(format_trace_id(span.get_span_context().trace_id), fields, span)

    def end(self, trace: Trace, decision: Decision, status: int) -> None:
        """Export the span of a request that has ended."""
        span = trace.span
        if not isinstance(span, RecordedSpan):  # the sampler left it out
            return
        span.set_attribute("http.response.status_code", status)
        if decision.chosen is not None:
            span.set_attribute("myxo.instance", decision.chosen.record.id)
            span.set_attribute("myxo.road", decision.road)
        for event in decision.events:
            if isinstance(event, Failure):
                span.add_event(
                    "attempt failed",
                    {"myxo.instance": event.instance.record.id, "reason": event.reason},
                )
        if status >= _SERVER_ERROR:
            span.set_status(Status(StatusCode.ERROR, decision.refusal or None))
        if decision.started:
            self._phases(span, decision)
        span.end()

    def shutdown(self) -> None:
        """Export what is left; blocks for `FLUSH_MS` at the most."""
        self._provider.force_flush(FLUSH_MS)
        self._provider.shutdown()

    def _phases(self, span: RecordedSpan, decision: Decision) -> None:
        """Export the phases as spans, one after the other from the request's begin on."""
        context, at = set_span_in_context(span), span.start_time or 0
        for phase, seconds in decision.timing.phases():
            end = at + int(seconds * 1e9)
            self._tracer.start_span(phase, context=context, start_time=at).end(end)
            at = end


def _carried(head: RequestHead) -> dict[str, str]:
    found = ((name, get(head.headers, name)) for name in _FIELDS)
    return {name.decode(): value.decode("latin-1") for name, value in found if value is not None}
