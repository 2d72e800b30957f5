"""Deletes at a version: only where the server keeps the condition, and never a false verdict."""

import asyncio
import hashlib
from contextlib import asynccontextmanager

import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from aiohttp import web

from scripted import serving
from snapstore import (
    AccessDeniedError,
    OutcomeUnknownError,
    StorageError,
    StorageTimeoutError,
    StorageUnavailableError,
    UnsupportedOperationError,
)
from snapstore.stores import HTTPSession, ManagedStore, PreconditionFailedError, Version
from snapstore.stores.s3.store import S3ObjectStore
from snapstore.testing.proxy import Fault, recording_proxy

MIB = 2**20
THREE = AioConfig(retries={"total_max_attempts": 3})


@pytest.fixture
async def proxy(s3_server):
    async with recording_proxy(s3_server.endpoint_url) as proxy:
        yield proxy


@pytest.fixture
async def store(proxy, bucket, s3_server):
    options = s3_server.storage_options | {"endpoint_url": proxy.endpoint_url}
    store = S3ObjectStore(bucket, config=THREE, **options)
    await store.open()
    yield store
    await store.aclose()


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch):
    """Let retries come at once."""
    monkeypatch.setattr("snapstore.stores.retry.full_jitter", lambda _: 0.0)


def deletes(proxy):
    return [request for request in proxy.requests if request.operation == "DeleteObject"]


# Real servers


keeps_conditions = [pytest.mark.seaweedfs, pytest.mark.moto]


def on_servers_that_keep_conditions(test):
    for mark in keeps_conditions:
        test = mark(test)
    return test


@on_servers_that_keep_conditions
async def test_a_server_is_asked_once_for_all_who_ask(store, proxy, s3_client, bucket, prefix):
    scratch = f"{prefix}/scratch"
    assert (
        await asyncio.gather(*(store.has_conditional_deletes(scratch) for _ in range(5)))
        == [True] * 5
    )
    expected = ["PutObject", "HeadObject", "DeleteObject", "HeadObject", "DeleteObject"]
    assert proxy.operations == [*expected, "HeadObject"]
    assert "Contents" not in await s3_client.list_objects_v2(Bucket=bucket, Prefix=prefix)
    await store.aclose()
    await store.open()
    assert await store.has_conditional_deletes(scratch)
    assert len(proxy.requests) == 2 * len([*expected, "HeadObject"])


@on_servers_that_keep_conditions
async def test_only_the_version_that_was_read_is_deleted(store, proxy, prefix) -> None:
    key = f"{prefix}/a b+ü%2F"
    first = await store.put(key, b"first")
    assert await store.has_conditional_deletes(f"{prefix}/scratch")
    second = await store.put(key, b"second", if_match=first)
    with pytest.raises(PreconditionFailedError) as caught:
        await store.delete_if_match(key, first)
    assert (caught.value.is_missing, caught.value.outcome) == (False, "not applied")
    assert caught.value.key == key
    proxy.requests.clear()
    await store.delete_if_match(key, second)
    assert proxy.operations == ["DeleteObject"]
    assert await store.get(key, max_bytes=MIB) is None
    with pytest.raises(PreconditionFailedError) as caught:
        await store.delete_if_match(key, second)
    assert (caught.value.is_missing, caught.value.outcome) == (True, "not applied")


@pytest.mark.ceph
async def test_a_server_that_ignores_conditions_is_found_out(
    store, proxy, s3_client, bucket, prefix
):
    scratch, key = f"{prefix}/scratch", f"{prefix}/key"
    version = await store.put(key, b"body")
    assert not await store.has_conditional_deletes(scratch)
    proxy.requests.clear()
    assert not await store.has_conditional_deletes(scratch)
    with pytest.raises(UnsupportedOperationError, match="ignores the condition"):
        await store.delete_if_match(key, version)
    assert proxy.requests == []
    listed = await s3_client.list_objects_v2(Bucket=bucket, Prefix=prefix)
    assert [found["Key"] for found in listed["Contents"]] == [key]


async def test_nothing_is_deleted_before_the_server_was_asked(store, proxy, prefix) -> None:
    version = await store.put(f"{prefix}/key", b"body")
    proxy.requests.clear()
    with pytest.raises(UnsupportedOperationError, match="was not asked before") as caught:
        await store.delete_if_match(f"{prefix}/key", version)
    assert caught.value.outcome == "not applied"
    assert proxy.requests == []


# Lost responses


async def ready(store, prefix, body=b"body"):
    assert await store.has_conditional_deletes(f"{prefix}/scratch")
    return f"{prefix}/key", await store.put(f"{prefix}/key", body)


def failing(proxy, *faults, of=("DeleteObject",)):
    """Let the next requests of some operations fail, one fault each; a function acts first."""
    plan = iter(faults)

    async def fault(request):
        if request.operation not in of:
            return None
        fault = next(plan, None)
        return await fault() if callable(fault) else fault

    proxy.requests.clear()
    proxy.fault = fault


@on_servers_that_keep_conditions
@pytest.mark.parametrize(
    "lost", [Fault(lost=True), Fault(status=500, body=b"<Error><Code>InternalError</Code></Error>")]
)
async def test_missing_after_a_lost_response_is_unknown(lost, store, proxy, prefix) -> None:
    key, version = await ready(store, prefix)
    failing(proxy, lost)
    with pytest.raises(PreconditionFailedError, match="may have deleted it") as caught:
        await store.delete_if_match(key, version)
    assert (caught.value.is_missing, caught.value.outcome) == (True, "unknown")
    assert len(deletes(proxy)) == 2
    assert await store.get(key, max_bytes=MIB) is None


@on_servers_that_keep_conditions
async def test_another_version_after_a_lost_response_is_unknown(
    store, proxy, s3_client, bucket, prefix
) -> None:
    key, version = await ready(store, prefix)

    async def another_writes():
        await s3_client.put_object(Bucket=bucket, Key=key, Body=b"another")

    failing(proxy, Fault(lost=True), another_writes)
    with pytest.raises(PreconditionFailedError) as caught:
        await store.delete_if_match(key, version)
    assert (caught.value.is_missing, caught.value.outcome) == (False, "unknown")
    assert (await store.get(key, max_bytes=MIB)).data == b"another"


@on_servers_that_keep_conditions
async def test_a_version_that_was_replaced_was_not_deleted(store, proxy, prefix) -> None:
    """The lineage tells: a writer who replaced this version has found it."""
    key, version = await ready(store, prefix)

    async def another_replaces():
        await store.put(key, b"another", if_match=version)

    failing(proxy, Fault(lost=True, forward=False), another_replaces)
    with pytest.raises(PreconditionFailedError) as caught:
        await store.delete_if_match(key, version)
    assert (caught.value.is_missing, caught.value.outcome) == (False, "not applied")


@on_servers_that_keep_conditions
async def test_a_delete_that_never_arrives_may_yet_be_applied(store, proxy, prefix) -> None:
    key, version = await ready(store, prefix)
    failing(proxy, *[Fault(lost=True, forward=False)] * 3)
    with pytest.raises(OutcomeUnknownError, match="may yet be applied") as caught:
        await store.delete_if_match(key, version)
    assert caught.value.outcome == "unknown"
    assert len(deletes(proxy)) == 3
    assert (await store.get(key, max_bytes=MIB)).version == version


@on_servers_that_keep_conditions
async def test_a_server_error_with_the_object_unchanged_is_not_applied(
    store, proxy, prefix
) -> None:
    key, version = await ready(store, prefix)
    failing(proxy, *[Fault.error(500, "InternalError")] * 3)
    with pytest.raises(StorageUnavailableError) as caught:
        await store.delete_if_match(key, version)
    assert caught.value.outcome == "not applied"
    failing(proxy)
    await store.delete_if_match(key, version)


@on_servers_that_keep_conditions
async def test_what_can_not_be_read_back_is_unknown(store, proxy, prefix) -> None:
    key, version = await ready(store, prefix)
    faults = [Fault(lost=True), *[Fault.error(503, "SlowDown")] * 9]
    failing(proxy, *faults, of=("DeleteObject", "HeadObject"))
    with pytest.raises(OutcomeUnknownError) as caught:
        await store.delete_if_match(key, version)
    assert caught.value.outcome == "unknown"


@on_servers_that_keep_conditions
@pytest.mark.parametrize("code", ["AccessDenied", "InvalidAccessKeyId"])
async def test_a_delete_that_is_forbidden_is_not_applied(code, store, proxy, prefix) -> None:
    key, version = await ready(store, prefix)
    failing(proxy, Fault.error(403, code))
    with pytest.raises(AccessDeniedError) as caught:
        await store.delete_if_match(key, version)
    assert caught.value.outcome == "not applied"
    assert proxy.operations == ["DeleteObject"]


@on_servers_that_keep_conditions
@pytest.mark.parametrize(
    ("fault", "outcome"),
    [(Fault(stall=600), "unknown"), (Fault(stall=600, forward=False), "unknown")],
)
async def test_a_delete_at_its_deadline_has_an_unknown_outcome(
    fault, outcome, proxy, bucket, s3_server, prefix, bring_deadlines_forward
) -> None:
    options = s3_server.storage_options | {"endpoint_url": proxy.endpoint_url}
    async with ManagedStore(S3ObjectStore(bucket, **options)) as store:
        key, version = await ready(store, prefix)

        async def bring_forward():
            bring_deadlines_forward()
            return fault

        failing(proxy, bring_forward)
        with pytest.raises(StorageTimeoutError) as caught:
            await store.delete_if_match(key, version)
    assert caught.value.outcome == outcome


@on_servers_that_keep_conditions
@pytest.mark.parametrize("session", [None, HTTPSession], ids=["aiobotocore's session", "ours"])
async def test_a_borrowed_client_makes_one_attempt_at_a_time(
    session, proxy, bucket, s3_server, prefix
) -> None:
    """What aiobotocore's own session resends, nobody learns of: then missing may be our delete."""
    config = AioConfig(
        retries={"mode": "legacy", "max_attempts": 5},
        **({} if session is None else {"http_session_cls": session}),
    )
    options = s3_server.client_options | {"endpoint_url": proxy.endpoint_url}
    async with get_session().create_client("s3", config=config, **options) as client:
        store = S3ObjectStore(bucket, client=client)
        await store.open()
        key, version = await ready(store, prefix)
        failing(proxy, *[Fault.error(500, "InternalError")] * 2)
        await store.delete_if_match(key, version)
        attempts = [request.headers["amz-sdk-request"] for request in deletes(proxy)]
        assert len(attempts) == 3
        assert all("attempt=1" in attempt for attempt in attempts)
        with pytest.raises(PreconditionFailedError) as caught:
            await store.delete_if_match(key, version)
        assert caught.value.is_missing
        assert caught.value.outcome == ("unknown" if session is None else "not applied")
        await store.aclose()


# Servers of all kinds


class Server:
    """An S3 of one object, whose conditions of deletes are of a kind.

    Args:
        takes: Which spellings of an etag are read: `'"'` with quotes, `""` without.
        unread: The status for a condition that is not read; 204 deletes.
        missing: The status for a delete where there is no object.
    """

    def __init__(self, takes=("", '"'), *, unread=412, missing=412, put_etag="{}"):
        self.takes, self.unread, self.missing = takes, unread, missing
        self.put_etag = put_etag
        self.objects = {}
        self.deletes = []

    async def handle(self, request):
        key = request.path
        if request.method == "PUT":
            body = await request.read()
            kept = {n: v for n, v in request.headers.items() if n.lower().startswith("x-amz-meta")}
            etag = hashlib.md5(body, usedforsecurity=False).hexdigest()
            self.objects[key] = (etag, kept)
            return web.Response(headers={"ETag": f'"{self.put_etag.format(etag)}"'})
        if request.method == "HEAD":
            if key not in self.objects:
                return web.Response(status=404)
            etag, kept = self.objects[key]
            return web.Response(headers={"ETag": f'"{etag}"', **kept})
        assert request.method == "DELETE"
        status = self.delete(key, request.headers.get("If-Match"))
        codes = {400: "InvalidArgument", 403: "AccessDenied", 404: "NoSuchKey"}
        codes |= {412: "PreconditionFailed", 501: "NotImplemented", 500: "InternalError"}
        if status == 204:
            return web.Response(status=204)
        return web.Response(status=status, text=f"<Error><Code>{codes[status]}</Code></Error>")

    def delete(self, key, condition):
        self.deletes.append(condition)
        if condition is None:
            self.objects.pop(key, None)
            return 204
        quote = '"' if condition.startswith('"') else ""
        if quote not in self.takes:
            if self.unread == 204:
                self.objects.pop(key, None)
            return self.unread
        if key not in self.objects:
            return self.missing
        if condition.strip('"') != self.objects[key][0]:
            return 412
        del self.objects[key]
        return 204


@asynccontextmanager
async def store_on(server):
    async with serving(server.handle) as url:
        session = get_session()
        session.set_credentials("key", "secret")
        store = S3ObjectStore(
            "bucket", session=session, region="us-east-1", endpoint_url=url, config=THREE
        )
        await store.open()
        try:
            yield store
        finally:
            await store.aclose()


@pytest.mark.parametrize("missing", [204, 404, 412])
@pytest.mark.parametrize("unread", [400, 412, 501, 204])
@pytest.mark.parametrize("takes", [("", '"'), ('"',), ("",)], ids=["both", "quoted", "bare"])
async def test_the_spelling_that_the_server_keeps_is_found(takes, unread, missing) -> None:
    server = Server(takes, unread=unread, missing=missing)
    async with store_on(server) as store:
        assert await store.has_conditional_deletes("scratch")
        assert server.objects == {}
        version = await store.put("key", b"one")
        with pytest.raises(PreconditionFailedError):
            await store.delete_if_match("key", Version("0" * 32))
        assert set(server.objects) == {"/bucket/key"}
        await store.delete_if_match("key", version)
        assert server.objects == {}
        if missing == 204:
            await store.delete_if_match("key", version)  # nothing tells
        else:
            with pytest.raises(PreconditionFailedError) as caught:
                await store.delete_if_match("key", version)
            assert caught.value.is_missing


@pytest.mark.parametrize("unread", [204, 400, 412, 501, 404])
async def test_a_server_without_conditions_is_found_out(unread) -> None:
    server = Server((), unread=unread)
    async with store_on(server) as store:
        assert not await store.has_conditional_deletes("scratch")
        assert server.objects == {}
        version = await store.put("key", b"one")
        with pytest.raises(UnsupportedOperationError):
            await store.delete_if_match("key", version)
        assert set(server.objects) == {"/bucket/key"}


async def test_a_server_that_refuses_and_deletes_all_the_same_is_found_out() -> None:
    server = Server()
    refuse = server.delete

    def refuse_and_delete(key, condition):
        status = refuse(key, condition)
        server.objects.pop(key, None)
        return status

    server.delete = refuse_and_delete
    async with store_on(server) as store:
        assert not await store.has_conditional_deletes("scratch")


@pytest.mark.parametrize("failing_status", [403, 500])
async def test_what_can_not_be_found_out_is_asked_again(failing_status) -> None:
    server = Server()
    works = server.delete
    server.delete = lambda key, condition: (
        works(key, condition) if condition is None else failing_status
    )
    async with store_on(server) as store:
        with pytest.raises(StorageError):
            await store.has_conditional_deletes("scratch")
        assert server.objects == {}  # it is removed here, too
        server.delete = works
        assert await store.has_conditional_deletes("scratch")


async def test_an_etag_of_a_put_that_no_read_returns_is_found() -> None:
    """The write id tells that it is the same version."""
    server = Server(put_etag="of-put-{}")
    async with store_on(server) as store:
        assert await store.has_conditional_deletes("scratch")
        version = await store.put("key", b"one")
        assert version.etag.startswith("of-put-")
        await store.delete_if_match("key", version)
        assert server.objects == {}
        await store.put("key", b"two")
        with pytest.raises(PreconditionFailedError):
            await store.delete_if_match("key", version)
        assert set(server.objects) == {"/bucket/key"}


async def test_a_probe_that_is_cancelled_leaves_nothing_and_is_made_again() -> None:
    server = Server()
    arrived, go_on = asyncio.Event(), asyncio.Event()
    handle = server.handle

    async def wait(request):
        if request.method == "HEAD" and not go_on.is_set():
            arrived.set()
            await go_on.wait()
        return await handle(request)

    server.handle = wait
    async with store_on(server) as store:
        first = asyncio.create_task(store.has_conditional_deletes("scratch"))
        await arrived.wait()
        second = asyncio.create_task(store.has_conditional_deletes("another"))
        await asyncio.sleep(0)
        assert set(server.objects) == {"/bucket/scratch"}  # the second one waits
        first.cancel()
        go_on.set()
        assert await second
        with pytest.raises(asyncio.CancelledError):
            await first
        assert server.objects == {}
