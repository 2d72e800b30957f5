"""What `S3Storage` makes of the replies a real server rarely gives: a scripted one gives them."""

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from aiohttp import web

from scripted import Handler, serving
from snapstore import (
    AccessDeniedError,
    BucketNotFoundError,
    InvalidResponseError,
    PartialDeleteError,
    S3Storage,
    SessionDeletedError,
    Snapshot,
    SnapshotLocation,
    StorageError,
    StorageTimeoutError,
    StorageUnavailableError,
    UnsupportedOperationError,
)

LOCATION = SnapshotLocation.agent("s-1", "weather")
HISTORY = "s-1/scopes/agent/weather/snapshots/immutable_history/"
SNAPSHOT = Snapshot.new({"text": "CANARY-SNAPSHOT"})
SESSION = get_session()
SESSION.set_credentials("CANARY-ACCESS-KEY", "CANARY-SECRET-KEY", "CANARY-TOKEN")
THREE_TRIES = AioConfig(retries={"total_max_attempts": 3})
BODY = b'{"scope":"agent","schemaVersion":"1.0","createdAt":"t","data":{},"appData":{}}'


class Server:
    def __init__(self, endpoint_url: str, arrived: list[str]) -> None:
        self.endpoint_url = endpoint_url
        self.arrived = arrived


@asynccontextmanager
async def counting(handler: Handler) -> AsyncIterator[Server]:
    arrived: list[str] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        arrived.append(request.method)
        await request.read()
        return await handler(request)

    async with serving(handle) as url:
        yield Server(url, arrived)


@asynccontextmanager
async def storage_on(handler: Handler, **options) -> AsyncIterator[tuple[S3Storage, Server]]:
    """A storage without its direct path, which hands to the generic one what is refused here."""
    async with counting(handler) as server:
        storage = S3Storage(
            "bucket",
            session=SESSION,
            region="us-east-1",
            endpoint_url=server.endpoint_url,
            direct=False,
            **options,
        )
        async with storage:
            yield storage, server


def failing(status: int, code: str, headers: dict[str, str] | None = None) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        body = (
            f"<Error><Code>{code}</Code><Message>m</Message>"
            "<StringToSign>CANARY-STRING-TO-SIGN</StringToSign></Error>"
        )
        return web.Response(
            status=status,
            text=body if code else "",
            content_type="application/xml",
            headers={"x-amz-request-id": "r-1"} | (headers or {}),
        )

    return handler


def listing(keys: list[str], *, truncated: str | None = "false", token: str = "") -> web.Response:
    contents = "".join(f"<Contents><Key>{key}</Key></Contents>" for key in keys)
    flag = "" if truncated is None else f"<IsTruncated>{truncated}</IsTruncated>"
    after = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    return web.Response(
        text=f"<ListBucketResult>{flag}{contents}{after}</ListBucketResult>",
        content_type="application/xml",
    )


def snapshot_id(number: int) -> str:
    return f"01912a3b-0000-7000-8000-{number:012x}"


def history_key(number: int) -> str:
    return f"{HISTORY}snapshot_{snapshot_id(number)}.json"


async def save(storage: S3Storage) -> object:
    return await storage.save_snapshot(location=LOCATION, snapshot=SNAPSHOT, is_latest=True)


async def save_new(storage: S3Storage) -> object:
    return await storage.save_snapshot(
        location=LOCATION, snapshot=SNAPSHOT, is_latest=True, if_none_match=True
    )


async def load(storage: S3Storage) -> object:
    return await storage.load_snapshot(location=LOCATION)


async def list_ids(storage: S3Storage) -> object:
    return await storage.list_snapshot_ids(location=LOCATION)


async def delete(storage: S3Storage) -> object:
    return await storage.delete_session(session_id="s-1")


OPERATIONS = [save, load, list_ids, delete]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    ("status", "code", "expected", "words"),
    [
        (404, "NoSuchBucket", BucketNotFoundError, "the bucket does not exist"),
        (403, "AccessDenied", AccessDeniedError, "403 AccessDenied"),
        (403, "SignatureDoesNotMatch", AccessDeniedError, "the secret key is wrong"),
        (403, "InvalidAccessKeyId", AccessDeniedError, "the access key is unknown"),
        (400, "ExpiredToken", AccessDeniedError, "the session token has expired"),
        (403, "RequestTimeTooSkewed", AccessDeniedError, "clock"),
        (501, "NotImplemented", UnsupportedOperationError, "501 NotImplemented"),
        (400, "AuthorizationHeaderMalformed", StorageError, "the bucket is elsewhere"),
        (400, "SomethingNew", StorageError, "400 SomethingNew"),
        (404, "", StorageError, "404"),
    ],
)
async def test_error_replies_are_typed_errors_that_say_what_is_wrong(
    operation, status, code, expected, words
) -> None:
    async with storage_on(failing(status, code)) as (storage, server):
        with pytest.raises(expected, match=words) as caught:
            await operation(storage)
    assert caught.value.status == status
    assert caught.value.bucket == "bucket"
    assert caught.value.key.startswith("s-1/")
    assert len(server.arrived) == 1


async def test_missing_object_is_none_and_denied_read_is_an_error() -> None:
    async with storage_on(failing(404, "NoSuchKey")) as (storage, _):
        assert await load(storage) is None
    async with storage_on(failing(403, "AccessDenied")) as (storage, _):
        with pytest.raises(AccessDeniedError, match="s3:ListBucket"):
            await load(storage)


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_failing_server_is_tried_again_and_then_reported(operation) -> None:
    async with storage_on(failing(503, "SlowDown"), config=THREE_TRIES) as (storage, server):
        with pytest.raises(StorageUnavailableError, match="fewer requests") as caught:
            await operation(storage)
    assert caught.value.request_id == "r-1"
    assert len(server.arrived) == 3


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_too_many_requests_is_retried_unlike_in_botocore(operation) -> None:
    replies = iter([429, 429])

    async def handler(request: web.Request) -> web.StreamResponse:
        status = next(replies, None)
        if status:
            return web.Response(status=status, headers={"Retry-After": "0"})
        if request.method == "PUT":
            return web.Response(headers={"ETag": '"e"'})
        if "list-type" in request.query:
            return listing([])
        return web.Response(body=BODY, headers={"ETag": '"e"'})

    async with storage_on(handler) as (storage, server):
        await operation(storage)
    assert len(server.arrived) == 3


async def test_a_contended_conditional_write_is_tried_again() -> None:
    replies = iter([409, 409, 200])

    async def handler(request: web.Request) -> web.Response:
        assert request.headers["If-None-Match"] == "*"
        status = next(replies)
        if status == 200:
            return web.Response(headers={"ETag": '"e"'})
        return await failing(409, "ConditionalRequestConflict")(request)

    async with storage_on(handler) as (storage, server):
        await save_new(storage)
    assert len(server.arrived) == 3


async def test_write_that_stays_contended_is_unavailable() -> None:
    contended = failing(409, "ConditionalRequestConflict")
    async with storage_on(contended, config=THREE_TRIES) as (storage, server):
        with pytest.raises(StorageUnavailableError) as caught:
            await save_new(storage)
    assert caught.value.outcome == "not applied"
    assert caught.value.retryable
    assert server.arrived == ["PUT"] * 3


@pytest.mark.parametrize(("status", "code"), [(412, "PreconditionFailed"), (404, "NoSuchKey")])
async def test_conflict_may_be_a_no_such_key(status, code) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return await failing(status if request.method == "PUT" else 404, code)(request)

    async with storage_on(handler) as (storage, server):
        with pytest.raises(SessionDeletedError) as caught:
            await storage.save_snapshot(
                location=LOCATION, snapshot=SNAPSHOT, is_latest=True, if_match='"e"'
            )
    assert server.arrived == ["PUT", "HEAD"]
    assert caught.value.status == status
    assert caught.value.key.endswith("snapshot_latest.json")
    assert (caught.value.outcome, caught.value.retryable) == ("not applied", False)


async def test_etags_are_sent_without_quotes() -> None:
    conditions = []

    async def handler(request: web.Request) -> web.Response:
        conditions.append(request.headers["If-Match"])
        return web.Response(headers={"ETag": '"new"'})

    async with storage_on(handler) as (storage, _):
        saved = await storage.save_snapshot(
            location=LOCATION, snapshot=SNAPSHOT, is_latest=True, if_match='"old"'
        )
    assert conditions == ["old"]
    assert saved.etag == "new"


async def test_a_read_cut_short_is_tried_again_and_then_reported() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"ETag": '"e"', "Content-Length": str(len(BODY))})
        await response.prepare(request)
        await response.write(BODY[:20])
        request.transport.close()
        return response

    async with storage_on(handler) as (storage, server):
        with pytest.raises(InvalidResponseError, match="was cut short"):
            await load(storage)
    assert len(server.arrived) == 3


async def test_a_body_that_does_not_match_its_checksum_is_an_error() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=BODY, headers={"ETag": '"e"', "x-amz-checksum-crc32": "AAAAAA=="})

    async with storage_on(handler) as (storage, _):
        with pytest.raises(InvalidResponseError, match="checksum"):
            await load(storage)


async def test_a_reply_without_an_etag_is_an_error() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=BODY if request.method == "GET" else b"")

    async with storage_on(handler) as (storage, _):
        for operation in (load, save):
            with pytest.raises(InvalidResponseError, match="no ETag"):
                await operation(storage)


async def test_a_large_object_is_refused_before_its_body_is_read() -> None:
    written = []

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"ETag": '"e"', "Content-Length": str(10**9)})
        await response.prepare(request)
        with suppress(ConnectionError):
            for _ in range(1000):
                await response.write(b" " * 10**6)
                written.append(10**6)
        return response

    async with storage_on(handler, max_snapshot_bytes=1000) as (storage, server):
        with pytest.raises(ValueError, match="too large"):
            await load(storage)
        assert sum(written) < 10**8
        assert len(server.arrived) == 1


async def test_object_of_unknown_length_may_be_too_large() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"ETag": '"e"'})
        response.enable_chunked_encoding()
        await response.prepare(request)
        with suppress(ConnectionError):
            for _ in range(1000):
                await response.write(b" " * 10**6)
        return response

    async with storage_on(handler, max_snapshot_bytes=1000) as (storage, _):
        with pytest.raises(ValueError, match="too large"):
            await load(storage)


async def test_an_object_of_unknown_length_is_read_whole() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"ETag": '"e"'})
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(BODY)
        await response.write_eof()
        return response

    async with storage_on(handler) as (storage, _):
        assert (await storage.load_snapshot(location=LOCATION)).created_at == "t"


async def test_an_error_in_a_good_reply_is_not_taken_for_a_snapshot() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(text="<Error><Code>InternalError</Code></Error>", headers={"ETag": "e"})

    async with storage_on(handler) as (storage, _):
        with pytest.raises(ValueError, match="not valid JSON"):
            await load(storage)


@pytest.mark.parametrize("operation", [list_ids, delete])
@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (web.Response, "whether it goes on"),
        (lambda: listing([history_key(1)], truncated=None), "whether it goes on"),
        (lambda: listing([history_key(1)], truncated="true"), "where"),
        (lambda: listing([], truncated="true", token="again"), "where"),
        (lambda: listing(["s-10/scopes/agent/weather/snapshots/x"]), "not under it"),
    ],
    ids=["empty reply", "no flag", "no token", "repeated token", "foreign key"],
)
async def test_broken_listing_is_an_error_and_deletes_nothing(operation, reply, words) -> None:
    async def handler(request: web.Request) -> web.Response:
        assert "delete" not in request.query
        return reply()

    async with storage_on(handler) as (storage, _):
        with pytest.raises(InvalidResponseError, match=words):
            await operation(storage)


@pytest.mark.parametrize("keys", [[2, 1], [1, 1]])
async def test_a_listing_out_of_order_is_an_error(keys) -> None:
    async def handler(request: web.Request) -> web.Response:
        return listing([history_key(number) for number in keys])

    async with storage_on(handler) as (storage, _):
        with pytest.raises(InvalidResponseError, match="out of order"):
            await list_ids(storage)


async def test_a_server_that_ignores_the_cursor_is_found_out() -> None:
    async def handler(request: web.Request) -> web.Response:
        return listing([history_key(1), history_key(2)])

    async with storage_on(handler) as (storage, _):
        with pytest.raises(InvalidResponseError, match="out of order"):
            await storage.list_snapshot_ids(location=LOCATION, start_after=snapshot_id(1))


async def test_an_empty_page_in_the_middle_does_not_end_a_listing() -> None:
    pages = iter(
        [
            listing([history_key(1)], truncated="true", token="a"),
            listing([], truncated="true", token="b"),
            listing([history_key(2)]),
        ]
    )

    async def handler(request: web.Request) -> web.Response:
        return next(pages)

    async with storage_on(handler) as (storage, server):
        assert await list_ids(storage) == [snapshot_id(1), snapshot_id(2)]
    assert len(server.arrived) == 3


async def test_every_key_of_a_delete_is_accounted_for() -> None:
    async def handler(request: web.Request) -> web.Response:
        if request.method == "GET":
            return listing([history_key(number) for number in range(4)])
        return web.Response(
            text="<DeleteResult>"
            f"<Deleted><Key>{history_key(0)}</Key></Deleted>"
            f"<Error><Key>{history_key(1)}</Key><Code>AccessDenied</Code></Error>"
            f"<Error><Key>{history_key(2)}</Key></Error>"
            "</DeleteResult>",
            content_type="application/xml",
        )

    async with storage_on(handler) as (storage, _):
        with pytest.raises(PartialDeleteError, match="3 of 4") as caught:
            await delete(storage)
    assert caught.value.failed == {
        history_key(1): "AccessDenied",
        history_key(2): "Unconfirmed",
        history_key(3): "Unconfirmed",
    }


async def test_a_key_that_can_not_be_deleted_just_now_is_tried_again() -> None:
    deletes = []

    async def handler(request: web.Request) -> web.Response:
        if request.method == "GET":
            return listing([history_key(1), history_key(2)])
        body = await request.text()
        deletes.append([number for number in (1, 2) if history_key(number) in body])
        second = (
            f"<Error><Key>{history_key(2)}</Key><Code>SlowDown</Code></Error>"
            if len(deletes) < 3
            else f"<Deleted><Key>{history_key(2)}</Key></Deleted>"
        )
        first = f"<Deleted><Key>{history_key(1)}</Key></Deleted>"
        return web.Response(
            text=f"<DeleteResult>{first}{second}</DeleteResult>", content_type="application/xml"
        )

    async with storage_on(handler) as (storage, _):
        assert (await storage.delete_session(session_id="s-1")).objects == 2
    assert deletes == [[1, 2], [2], [2]]


@pytest.mark.parametrize("operation", [save, save_new, load])
async def test_missing_credentials_send_nothing(operation) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=500)

    async with (
        counting(handler) as server,
        S3Storage("bucket", region="us-east-1", endpoint_url=server.endpoint_url) as storage,
    ):
        with pytest.raises(AccessDeniedError, match="no credentials"):
            await operation(storage)
        assert server.arrived == []


async def test_conditional_write_without_an_etag_is_read_back() -> None:
    sent = {}

    async def handler(request: web.Request) -> web.Response:
        if request.method == "PUT":
            sent.update(request.headers)
            return web.Response()
        meta = {k: v for k, v in sent.items() if k.lower().startswith("x-amz-meta-")}
        return web.Response(headers={"ETag": '"e"', **meta})

    async with storage_on(handler) as (storage, server):
        assert (await save_new(storage)).etag == "e"
    assert server.arrived == ["PUT", "HEAD"]


async def test_a_read_without_an_etag_gives_its_connection_back() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=b" " * 3_000_000)

    async with storage_on(handler, max_concurrency=1, timeout=20) as (storage, _):
        for _ in range(3):
            with pytest.raises(InvalidResponseError, match="no ETag"):
                await load(storage)


async def test_an_empty_reply_to_a_delete_confirms_nothing() -> None:
    async def handler(request: web.Request) -> web.Response:
        return listing([history_key(1)]) if request.method == "GET" else web.Response()

    async with storage_on(handler) as (storage, _):
        with pytest.raises(PartialDeleteError) as caught:
            await delete(storage)
    assert caught.value.failed == {history_key(1): "Unconfirmed"}


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_the_deadline_ends_a_request_that_is_not_answered(
    operation, bring_deadlines_forward
) -> None:
    async def handler(request: web.Request) -> web.Response:
        bring_deadlines_forward()
        await asyncio.sleep(3600)
        raise AssertionError

    async with storage_on(handler) as (storage, _):
        with pytest.raises(StorageTimeoutError, match="deadline"):
            await operation(storage)


async def test_deadline_covers_waiting_for_a_slot_and_a_stalled_body(
    bring_deadlines_forward,
) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        bring_deadlines_forward()
        response = web.StreamResponse(headers={"ETag": '"e"', "Content-Length": "1000"})
        await response.prepare(request)
        await asyncio.sleep(3600)
        return response

    async with storage_on(handler, max_concurrency=1) as (storage, server):
        results = await asyncio.gather(*(load(storage) for _ in range(5)), return_exceptions=True)
        assert [type(result) for result in results] == [StorageTimeoutError] * 5
        # Waiting without a deadline, each would have come to its turn.
        assert len(server.arrived) < 5


async def test_the_requests_in_flight_are_bounded() -> None:
    running = peak = 0

    async def handler(request: web.Request) -> web.Response:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await asyncio.sleep(0.01)
        running -= 1
        return web.Response(body=BODY, headers={"ETag": '"e"'})

    async with storage_on(handler, max_concurrency=3) as (storage, _):
        await asyncio.gather(*(load(storage) for _ in range(12)))
    assert peak == 3


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_no_redirect_is_followed(operation, status) -> None:
    async def stranger(request: web.Request) -> web.Response:
        return web.Response(body=BODY, headers={"ETag": '"e"'})

    async with counting(stranger) as other:
        redirect = failing(status, "TemporaryRedirect", {"Location": f"{other.endpoint_url}/b"})
        async with storage_on(redirect) as (storage, _):
            with pytest.raises(StorageError, match="elsewhere"):
                await operation(storage)
        assert other.arrived == []


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    "handler",
    [
        failing(403, "SignatureDoesNotMatch"),
        failing(412, "PreconditionFailed"),
        failing(400, ""),
    ],
)
async def test_errors_and_logs_hold_no_secret_and_no_snapshot(operation, handler, caplog) -> None:
    caplog.set_level(logging.DEBUG, logger="snapstore")
    async with storage_on(handler) as (storage, _):
        with pytest.raises(StorageError) as caught:
            await operation(storage)
    error: BaseException | None = caught.value
    seen = "".join(traceback.format_exception(caught.value)) + caplog.text
    while error is not None:
        seen += f"{error!r} {error} {vars(error)} {error.args}"
        error = error.__cause__ or error.__context__
    assert "CANARY" not in seen


async def test_cancellation_leaves_the_storage_usable() -> None:
    stuck = True

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"ETag": '"e"', "Content-Length": str(len(BODY))},
        )
        await response.prepare(request)
        await response.write(BODY[:10])
        if stuck:
            await asyncio.sleep(3600)
        await response.write(BODY[10:])
        return response

    async with storage_on(handler, max_concurrency=4) as (storage, server):
        tasks = [asyncio.create_task(load(storage)) for _ in range(20)]
        while len(server.arrived) < 4:
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        stuck = False
        loaded = await asyncio.gather(*(load(storage) for _ in range(20)))
        assert all(isinstance(snapshot, Snapshot) for snapshot in loaded)
