"""Spans and metrics of OpenTelemetry, as the SDK's exporters get them."""

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from snapstore import (
    MemoryStorage,
    S3Storage,
    Snapshot,
    SnapshotConflictError,
    SnapshotLocation,
)
from snapstore.integrations.opentelemetry import OpenTelemetryHook
from snapstore.testing.proxy import Fault, recording_proxy

CANARY = "canary-51f0"
LOCATION = SnapshotLocation.agent(f"session-{CANARY}", f"agent-{CANARY}")
LATEST = "<session_id>/scopes/agent/<scope_id>/snapshots/snapshot_latest.json"


class Telemetry:
    """A hook, and what the exporters behind it have got."""

    def __init__(self):
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._meters = MeterProvider([self._reader])
        self.hook = OpenTelemetryHook(tracer_provider=self.tracers, meter_provider=self._meters)

    @property
    def spans(self):
        return self._exporter.get_finished_spans()

    def named(self, name):
        return [span for span in self.spans if span.name == name]

    def metrics(self):
        """The points of each metric, as pairs of attributes and value."""
        data = self._reader.get_metrics_data()
        return {
            metric.name: [
                (dict(point.attributes), getattr(point, "value", getattr(point, "count", None)))
                for point in metric.data.data_points
            ]
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def all_text(self):
        spans = "".join(span.to_json() for span in self.spans)
        return spans + self._reader.get_metrics_data().to_json()

    def close(self):
        self.tracers.shutdown()
        self._meters.shutdown()


@pytest.fixture
def telemetry():
    telemetry = Telemetry()
    yield telemetry
    telemetry.close()


@pytest.fixture(params=["s3", "memory"])
def make_storage(request, telemetry):
    def make(**options):
        if request.param == "memory":
            return MemoryStorage(prefix=CANARY, on_operation=telemetry.hook, **options)
        server = request.getfixturevalue("s3_server")
        return S3Storage(
            request.getfixturevalue("bucket"),
            prefix=f"{request.getfixturevalue('prefix')}-{CANARY}",
            on_operation=telemetry.hook,
            **server.storage_options,
            **options,
        )

    return make


def snapshot(n=1):
    return Snapshot.new({CANARY: n}, app_data={"user": CANARY})


async def save(storage, **arguments):
    return await storage.save_snapshot(
        location=LOCATION, snapshot=snapshot(), is_latest=True, **arguments
    )


async def work(storage):
    """Each kind of operation, and a conflict."""
    await storage.checkpoint(location=LOCATION, snapshot=snapshot())
    await storage.load_snapshot(location=LOCATION)
    await storage.update_latest(location=LOCATION, update=lambda _: snapshot(2))
    assert [found async for found in storage.iter_snapshot_ids(location=LOCATION)]
    with pytest.raises(SnapshotConflictError):
        await save(storage, if_none_match=True)
    await storage.delete_session(session_id=LOCATION.session_id)


async def test_an_operation_is_a_span_inside_of_the_caller_s(make_storage, telemetry):
    async with make_storage() as storage:
        with telemetry.tracers.get_tracer("app").start_as_current_span("a turn") as turn:
            await storage.load_snapshot(location=LOCATION)

    (span,) = telemetry.named("snapstore.load_snapshot")
    assert span.parent.span_id == turn.get_span_context().span_id
    assert span.kind is SpanKind.INTERNAL
    assert turn.start_time <= span.start_time <= span.end_time
    assert span.attributes["snapstore.operation"] == "load_snapshot"
    assert span.attributes["snapstore.outcome"] == "ok"
    assert span.attributes["snapstore.key_pattern"] == LATEST
    assert span.status.status_code is StatusCode.UNSET


async def test_nothing_of_a_snapshot_and_no_id_is_in_any_span_or_metric(make_storage, telemetry):
    async with make_storage() as storage:
        await work(storage)

    assert len([span for span in telemetry.spans if span.name.startswith("snapstore.")]) == 6
    assert CANARY not in telemetry.all_text()


async def test_a_failure_is_a_status_and_a_type(make_storage, telemetry):
    async with make_storage() as storage:
        await work(storage)

    (failed,) = telemetry.named("snapstore.save_snapshot")
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.attributes["error.type"] == "SnapshotConflictError"
    assert failed.attributes["snapstore.conflicts"] == 1
    assert failed.events == ()


async def test_metrics_count_duration_bytes_and_conflicts(make_storage, telemetry):
    async with make_storage() as storage:
        await work(storage)

    metrics = telemetry.metrics()
    conflict = {
        "snapstore.operation": "save_snapshot",
        "snapstore.outcome": "failed",
        "error.type": "SnapshotConflictError",
    }
    assert metrics["snapstore.operation.conflicts"] == [(conflict, 1)]
    operations = [
        attributes["snapstore.operation"]
        for attributes, _ in metrics["snapstore.operation.duration"]
    ]
    assert sorted(operations) == sorted(
        [
            "checkpoint",
            "load_snapshot",
            "update_latest",
            "iter_snapshot_ids",
            "save_snapshot",
            "delete_session",
        ]
    )
    io = {
        (attributes["snapstore.operation"], attributes["snapstore.io.direction"]): value
        for attributes, value in metrics["snapstore.operation.io"]
    }
    assert io["checkpoint", "write"] == 2 * io["save_snapshot", "write"]
    assert io["load_snapshot", "read"] >= io["save_snapshot", "write"]
    assert "snapstore.operation.retries" not in metrics


async def test_requests_follow_the_conventions_for_s3(s3_server, bucket, prefix, telemetry):
    faults = [Fault.error(503, "SlowDown")]

    async def fault(_):
        return faults.pop(0) if faults else None

    async with recording_proxy(s3_server.endpoint_url) as proxy:
        options = {**s3_server.storage_options, "endpoint_url": proxy.endpoint_url}
        async with S3Storage(
            bucket, prefix=prefix, on_operation=telemetry.hook, **options
        ) as storage:
            proxy.fault = fault
            await save(storage)

    first, second = telemetry.named("S3.PutObject")
    (operation,) = telemetry.named("snapstore.save_snapshot")
    common = {
        "rpc.system": "aws-api",
        "rpc.service": "S3",
        "rpc.method": "PutObject",
        "aws.s3.bucket": bucket,
    }
    assert dict(first.attributes) == {
        **common,
        "snapstore.path": "fast",
        "http.response.status_code": 503,
        "error.type": "SlowDown",
    }
    assert first.status.status_code is StatusCode.ERROR
    assert dict(second.attributes) == {
        **common,
        "snapstore.path": "slow",  # after a failure
        "http.response.status_code": 200,
        "http.request.resend_count": 1,
    }
    assert second.status.status_code is StatusCode.UNSET
    for span in first, second:
        assert span.kind is SpanKind.CLIENT
        assert span.parent.span_id == operation.context.span_id
        assert operation.start_time <= span.start_time <= span.end_time <= operation.end_time
    attributes = {"snapstore.operation": "save_snapshot", "snapstore.outcome": "ok"}
    assert telemetry.metrics()["snapstore.operation.retries"] == [(attributes, 1)]


async def test_keys_are_in_spans_of_requests_if_they_are_asked_for(
    s3_server, bucket, prefix, telemetry
):
    options = {**s3_server.storage_options, "on_operation": telemetry.hook}
    async with S3Storage(bucket, prefix=prefix, on_operation_keys=True, **options) as storage:
        await storage.checkpoint(location=LOCATION, snapshot=snapshot())
        ids = await storage.list_snapshot_ids(location=LOCATION)

    base = f"{prefix}/{LOCATION.session_id}/scopes/agent/{LOCATION.scope_id}/snapshots/"
    assert [span.attributes["aws.s3.key"] for span in telemetry.named("S3.PutObject")] == [
        f"{base}immutable_history/snapshot_{ids[0]}.json",
        f"{base}snapshot_latest.json",
    ]
    (listing,) = telemetry.named("S3.ListObjectsV2")
    assert "aws.s3.key" not in listing.attributes  # the conventions give it none
    assert CANARY not in str(telemetry.metrics())


async def test_without_providers_of_its_own_it_uses_the_global_ones():
    # The API alone, without an SDK, makes nothing of it.
    with trace.use_span(trace.INVALID_SPAN):
        async with MemoryStorage(on_operation=OpenTelemetryHook()) as storage:
            await work(storage)
