"""OpenTelemetry: a span for each operation of a storage and for each of its requests, and metrics.

::

    storage = S3Storage("my-bucket", on_operation=OpenTelemetryHook())

Spans and metrics are made of the record of an operation when it ends, with the times at which
things happened, as children of the span that the caller was in.

Spans of requests follow the OpenTelemetry semantic conventions for S3 ("Semantic conventions for
AWS S3 client spans", status: Development). They are named `S3.GetObject` and so on, are of kind
`CLIENT`, and have `rpc.system`, `rpc.service`, `rpc.method`, `aws.s3.bucket`,
`http.response.status_code`, and, where it applies, `error.type` and `http.request.resend_count`.
They have `aws.s3.key` only if the storage was made with `on_operation_keys=True`.
"""

from typing import Final

from snapstore.storage.observation import OperationRecord
from snapstore.stores.recording import RequestRecord
from snapstore.version import __version__

try:
    from opentelemetry import metrics, trace
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, SpanKind, StatusCode, TracerProvider
    from opentelemetry.util.types import AttributeValue
except ImportError as _error:
    raise ImportError(
        "snapstore.integrations.opentelemetry needs the OpenTelemetry API: "
        'pip install "snapstore[otel]"'
    ) from _error

__all__ = ["OpenTelemetryHook"]

_OBJECT_OPERATIONS: Final = frozenset({"DeleteObject", "GetObject", "HeadObject", "PutObject"})
"""Operations that the conventions give a key. That of the others is a prefix, or one of many."""

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
"""The bounds of durations that the semantic conventions advise ("HTTP metrics")."""


class OpenTelemetryHook:
    """Makes spans and metrics of the operations of a storage, for its `on_operation`.

    One hook may serve several storages. No span and no metric has the content of a snapshot, nor an
    id unless the storage was made with `on_operation_keys=True`; metrics never have one.

    A span of an operation is named `snapstore.save_snapshot` and so on, is of kind `INTERNAL`, and
    has the attributes `snapstore.operation`, `snapstore.outcome`, `snapstore.bytes_read`,
    `snapstore.bytes_written`, `snapstore.conflicts`, `snapstore.key_pattern` where it is known,
    and `error.type` where it failed. Its children are its requests.

    Metrics, with the attributes `snapstore.operation`, `snapstore.outcome` and, where it failed,
    `error.type`:

    - `snapstore.operation.duration`: a histogram, in seconds;
    - `snapstore.operation.io`: a counter of bytes, with `snapstore.io.direction`, which is `"read"`
      or `"write"`;
    - `snapstore.operation.retries`: a counter of requests that were sent again;
    - `snapstore.operation.conflicts`: a counter of writes that another writer came before.

    Args:
        tracer_provider: Makes the spans; `None` for the global one.
        meter_provider: Makes the metrics; `None` for the global one.

    Example:
        ::

            hook = OpenTelemetryHook()
            async with S3Storage("my-bucket", on_operation=hook) as storage:
                ...
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        self._tracer = trace.get_tracer("snapstore", __version__, tracer_provider)
        meter = metrics.get_meter("snapstore", __version__, meter_provider)
        self._duration = meter.create_histogram(
            "snapstore.operation.duration",
            unit="s",
            description="Duration of the operations of a storage.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._io = meter.create_counter(
            "snapstore.operation.io",
            unit="By",
            description="Bytes of snapshots that were read and written.",
        )
        self._retries = meter.create_counter(
            "snapstore.operation.retries",
            unit="{request}",
            description="Requests that were sent again.",
        )
        self._conflicts = meter.create_counter(
            "snapstore.operation.conflicts",
            unit="{conflict}",
            description="Writes that another writer came before.",
        )

    def __call__(self, record: OperationRecord) -> None:
        """Make the spans and metrics of an operation."""
        self._measure(record)
        self._trace(record)

    def _measure(self, record: OperationRecord) -> None:
        attributes = _common(record)
        self._duration.record(record.seconds, attributes)
        for direction, size in ("read", record.bytes_read), ("write", record.bytes_written):
            if size:
                self._io.add(size, {**attributes, "snapstore.io.direction": direction})
        if record.retries:
            self._retries.add(record.retries, attributes)
        if record.conflicts:
            self._conflicts.add(record.conflicts, attributes)

    def _trace(self, record: OperationRecord) -> None:
        attributes = _common(record) | {
            "snapstore.bytes_read": record.bytes_read,
            "snapstore.bytes_written": record.bytes_written,
            "snapstore.conflicts": record.conflicts,
        }
        if record.key_pattern is not None:
            attributes["snapstore.key_pattern"] = record.key_pattern
        span = self._tracer.start_span(
            f"snapstore.{record.operation}",
            attributes=attributes,
            start_time=_nanoseconds(record.started_at),
        )
        _set_status(span, record.error)
        context = trace.set_span_in_context(span)
        for request in record.requests:
            started_at = record.started_at + request.started
            child = self._tracer.start_span(
                f"S3.{request.operation}",
                context,
                SpanKind.CLIENT,
                _of_request(request, record.place),
                start_time=_nanoseconds(started_at),
            )
            _set_status(child, _error_type(request))
            child.end(_nanoseconds(started_at + request.seconds))
        span.end(_nanoseconds(record.started_at + record.seconds))


def _common(record: OperationRecord) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {
        "snapstore.operation": record.operation,
        "snapstore.outcome": record.outcome,
    }
    if record.error is not None:
        attributes["error.type"] = record.error
    return attributes


def _of_request(request: RequestRecord, bucket: str) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {
        "rpc.system": "aws-api",
        "rpc.service": "S3",
        "rpc.method": request.operation,
        "aws.s3.bucket": bucket,
        "snapstore.path": request.path,
    }
    if request.status is not None:
        attributes["http.response.status_code"] = request.status
    if request.attempt > 1:
        attributes["http.request.resend_count"] = request.attempt - 1
    if request.key is not None and request.operation in _OBJECT_OPERATIONS:
        attributes["aws.s3.key"] = request.key
    if (error_type := _error_type(request)) is not None:
        attributes["error.type"] = error_type
    return attributes


def _error_type(request: RequestRecord) -> str | None:
    """The server's code, which says more than the class, or what else is known of the failure."""
    is_error = request.status is not None and request.status >= 300
    return request.code or request.error or (str(request.status) if is_error else None)


def _set_status(span: Span, error_type: str | None) -> None:
    if error_type is not None:
        span.set_status(StatusCode.ERROR, error_type)


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
