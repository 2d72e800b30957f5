"""Conditional writes whose response is lost: success, conflict or unknown, and never falsely."""

import asyncio
import random
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import quote

import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from snapstore import (
    InvalidIdentifierError,
    OutcomeUnknownError,
    S3Storage,
    SavedSnapshot,
    SessionDeletedError,
    Snapshot,
    SnapshotConflictError,
    SnapshotLocation,
    StorageUnavailableError,
    new_snapshot_id,
)
from snapstore.stores.s3.client import HTTPSession
from snapstore.testing.proxy import Fault, recording_proxy

LOCATION = SnapshotLocation.agent("s-1", "counter")
ELSEWHERE = SnapshotLocation.agent("s-2", "counter")
KEY = "s-1/scopes/agent/counter/snapshots/snapshot_latest.json"
LOST = Fault(lost=True)
NEVER_ARRIVED = Fault(lost=True, forward=False)
SENT_TWICE = Fault(repeat=True)
HELD = Fault(held=True)
BUSY = Fault.error(503, "SlowDown")
THREE_TRIES = AioConfig(retries={"total_max_attempts": 3})


def counted(number: int) -> Snapshot:
    return Snapshot.new({"count": number})


def add_one(current: Snapshot | None) -> Snapshot:
    return counted(current.data["count"] + 1 if current else 1)


async def count_in(storage: S3Storage) -> int:
    return (await storage.load_snapshot(location=LOCATION)).data["count"]


async def save(storage: S3Storage, number: int, **condition) -> SavedSnapshot:
    return await storage.save_snapshot(
        location=LOCATION, snapshot=counted(number), is_latest=True, **condition
    )


@pytest.fixture(params=["direct", "generic", "borrowed"])
async def storages(s3_server, bucket, prefix, monkeypatch, request):
    """Two storages on one prefix: one behind a proxy, the other not; and the proxy."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(recording_proxy(s3_server.endpoint_url))
        to_proxy = {"endpoint_url": proxy.endpoint_url, "config": THREE_TRIES}
        if request.param == "borrowed":
            config = THREE_TRIES.merge(AioConfig(http_session_cls=HTTPSession))
            options = {**s3_server.client_options, **to_proxy, "config": config}
            client = get_session().create_client("s3", **options)
            to_proxy = {"client": await stack.enter_async_context(client)}
        storage = S3Storage(bucket, prefix=prefix, direct=request.param != "generic", **to_proxy)
        ours = await stack.enter_async_context(storage)
        others = await stack.enter_async_context(S3Storage(bucket, prefix=prefix))
        # From now on requests are replayed.
        await ours.save_snapshot(
            location=ELSEWHERE, snapshot=counted(0), is_latest=True, if_none_match=True
        )
        await ours.load_snapshot(location=ELSEWHERE)
        proxy.requests.clear()
        yield ours, others, proxy


def fail_puts(proxy, *faults, then=None):
    """Have the next writes fail so, one after the other, and do `then` before what follows."""
    proxy.requests.clear()
    plan = list(faults)

    async def fault(request):
        nonlocal then
        if request.operation != "PutObject":
            return None
        if plan:
            return plan.pop(0)
        if then is not None:
            action, then = then, None
            await action()
        return None

    proxy.fault = fault


async def test_a_create_whose_reply_was_lost_is_a_success(storages) -> None:
    ours, _, proxy = storages
    fail_puts(proxy, LOST)
    saved = await save(ours, 1, if_none_match=True)
    assert proxy.operations == ["PutObject", "PutObject", "HeadObject"]
    read = await ours.load_versioned(location=LOCATION)
    assert (read.etag, read.lineage, read.key) == (saved.etag, saved.lineage, saved.key)


async def test_an_update_whose_reply_was_lost_is_a_success(storages) -> None:
    ours, _, proxy = storages
    first = await save(ours, 1)
    fail_puts(proxy, LOST)
    second = await save(ours, 2, if_match=first)
    assert proxy.operations == ["PutObject", "PutObject", "HeadObject"]
    assert (await ours.load_versioned(location=LOCATION)).etag == second.etag
    await save(ours, 3, if_match=second)


async def test_an_update_of_which_every_reply_was_lost_is_a_success(storages) -> None:
    ours, _, proxy = storages
    first = await save(ours, 1)
    fail_puts(proxy, LOST, LOST, LOST)
    await save(ours, 2, if_match=first)
    assert await count_in(ours) == 2


async def test_write_lost_and_replaced_succeeds_with_its_etag(
    storages,
) -> None:
    ours, others, proxy = storages
    first = await save(ours, 1)

    async def write_over_it() -> None:
        for _ in range(3):
            await others.update_latest(location=LOCATION, update=add_one)

    fail_puts(proxy, LOST, then=write_over_it)
    second = await save(ours, 2, if_match=first)
    assert await count_in(ours) == 5
    assert second.etag not in (first.etag, (await ours.load_versioned(location=LOCATION)).etag)
    with pytest.raises(SnapshotConflictError):
        await save(ours, 3, if_match=second)


async def test_write_that_never_arrived_is_a_conflict(
    storages,
) -> None:
    ours, others, proxy = storages
    first = await save(ours, 1)

    async def come_first() -> None:
        await others.update_latest(location=LOCATION, update=lambda _: counted(7))

    fail_puts(proxy, NEVER_ARRIVED, then=come_first)
    with pytest.raises(SnapshotConflictError):
        await save(ours, 2, if_match=first)
    assert await count_in(ours) == 7


async def test_create_without_a_response_over_another_is_unknown(
    storages,
) -> None:
    ours, others, proxy = storages

    async def come_first() -> None:
        await others.update_latest(location=LOCATION, update=add_one)

    fail_puts(proxy, NEVER_ARRIVED, then=come_first)
    with pytest.raises(OutcomeUnknownError) as caught:
        await save(ours, 2, if_none_match=True)
    assert (caught.value.outcome, caught.value.retryable) == ("unknown", False)
    assert await count_in(ours) == 1


async def test_create_applied_deleted_and_recreated_is_no_conflict(
    storages,
) -> None:
    ours, others, proxy = storages

    async def delete_and_create() -> None:
        await others.delete_session(session_id="s-1")
        await save(others, 7, if_none_match=True)

    fail_puts(proxy, LOST, then=delete_and_create)
    with pytest.raises(OutcomeUnknownError):
        await save(ours, 1, if_none_match=True)


async def test_create_held_by_a_gateway_is_unknown(storages) -> None:
    ours, others, proxy = storages

    async def come_first() -> None:
        await save(others, 7, if_none_match=True)

    fail_puts(proxy, HELD, then=come_first)
    with pytest.raises(OutcomeUnknownError, match="may yet be applied"):
        await save(ours, 1, if_none_match=True)
    await others.delete_session(session_id="s-1")
    await proxy.release()
    assert await count_in(ours) == 1


async def test_update_held_by_a_gateway_is_a_conflict(
    storages,
) -> None:
    ours, others, proxy = storages
    first = await save(ours, 1)

    async def come_first() -> None:
        await save(others, 2, if_match=first)

    fail_puts(proxy, HELD, then=come_first)
    with pytest.raises(SnapshotConflictError) as caught:
        await save(ours, 3, if_match=first)
    assert caught.value.outcome == "not applied"
    # A rewind to the very same document has another etag.
    await save(others, 1)
    await proxy.release()
    assert await count_in(ours) == 1


@pytest.mark.parametrize("condition", ["if_match", "if_none_match"])
async def test_a_write_that_a_proxy_has_sent_twice_is_a_success(storages, condition) -> None:
    ours, _, proxy = storages
    options = {"if_none_match": True}
    if condition == "if_match":
        options = {"if_match": await save(ours, 1)}
    fail_puts(proxy, SENT_TWICE)
    saved = await save(ours, 2, **options)
    assert proxy.operations == ["PutObject", "HeadObject"]
    assert (await ours.load_versioned(location=LOCATION)).etag == saved.etag
    await save(ours, 3, if_match=saved)


async def test_history_save_sent_twice_by_a_proxy_is_a_success(storages) -> None:
    ours, _, proxy = storages
    fail_puts(proxy, SENT_TWICE)
    saved = await ours.save_snapshot(location=LOCATION, snapshot=counted(1), is_latest=False)
    assert await ours.list_snapshot_ids(location=LOCATION) == [saved.snapshot_id]


async def test_an_update_that_a_proxy_has_sent_twice_counts_once(storages) -> None:
    ours, _, proxy = storages
    fail_puts(proxy, *[SENT_TWICE] * 5)
    for _ in range(5):
        await ours.update_latest(location=LOCATION, update=add_one)
    assert await count_in(ours) == 5
    # The read of the next attempt tells, so that no request is made only to find out.
    assert "HeadObject" not in proxy.operations


async def test_the_last_attempt_of_an_update_is_read_back(storages) -> None:
    ours, _, proxy = storages
    fail_puts(proxy, SENT_TWICE)
    await ours.update_latest(location=LOCATION, update=add_one, max_attempts=1)
    assert proxy.operations == ["GetObject", "PutObject", "HeadObject"]
    assert await count_in(ours) == 1


async def test_write_rewound_by_another_is_not_retried(storages) -> None:
    ours, others, proxy = storages
    turn_one = counted(1)
    first = await ours.save_snapshot(location=LOCATION, snapshot=turn_one, is_latest=True)

    async def rewind() -> None:
        turn_two = await others.load_versioned(location=LOCATION)
        await others.save_snapshot(
            location=LOCATION, snapshot=turn_one, is_latest=True, if_match=turn_two
        )

    fail_puts(proxy, LOST, then=rewind)
    await save(ours, 2, if_match=first)
    assert await count_in(ours) == 1


async def test_save_over_a_deleted_snapshot_restores_nothing(storages) -> None:
    ours, others, _ = storages
    first = await save(ours, 1)
    await others.delete_session(session_id="s-1")
    for condition in (first, first.etag):
        with pytest.raises(SessionDeletedError, match="it was deleted, or never saved"):
            await save(ours, 2, if_match=condition)
    assert await ours.load_snapshot(location=LOCATION) is None


async def test_a_version_belongs_to_its_key(storages) -> None:
    ours, _, proxy = storages
    snapshot = counted(1)
    other = await ours.save_snapshot(location=ELSEWHERE, snapshot=snapshot, is_latest=True)
    checkpoint = await ours.checkpoint(location=LOCATION, snapshot=snapshot)
    history = await ours.load_versioned(location=LOCATION, snapshot_id=checkpoint.snapshot_id)
    proxy.requests.clear()
    for version in (other, history):
        with pytest.raises(InvalidIdentifierError, match="is a version of"):
            await save(ours, 2, if_match=version)
    assert proxy.requests == []
    await save(ours, 2, if_match=checkpoint)


async def test_write_perhaps_replaced_by_a_foreign_one_is_unknown(
    storages, s3_client, bucket, prefix
) -> None:
    ours, _, proxy = storages
    first = await save(ours, 1)

    async def write_as_an_sdk() -> None:
        await s3_client.put_object(Bucket=bucket, Key=f"{prefix}/{KEY}", Body=b"{}")

    fail_puts(proxy, LOST, then=write_as_an_sdk)
    with pytest.raises(OutcomeUnknownError) as caught:
        await save(ours, 2, if_match=first)
    assert caught.value.key == f"{prefix}/{KEY}"


async def test_a_write_that_may_have_been_deleted_since_is_unknown(storages) -> None:
    ours, others, proxy = storages
    first = await save(ours, 1)

    async def delete() -> None:
        await others.delete_session(session_id="s-1")

    fail_puts(proxy, LOST, then=delete)
    with pytest.raises(OutcomeUnknownError):
        await save(ours, 2, if_match=first)


async def test_a_create_that_may_have_been_deleted_since_is_unknown(storages) -> None:
    ours, others, proxy = storages

    async def fault(request):
        # It is deleted when our second try has been refused by our first.
        if request.operation == "HeadObject":
            await others.delete_session(session_id="s-1")
        return LOST if proxy.operations == ["PutObject"] else None

    proxy.fault = fault
    with pytest.raises(OutcomeUnknownError):
        await save(ours, 1, if_none_match=True)


async def test_conflict_without_loss_costs_one_more_request(storages) -> None:
    ours, others, proxy = storages
    first = await save(others, 1)
    await save(others, 2)
    for condition in ({"if_match": first}, {"if_match": first.etag}, {"if_none_match": True}):
        proxy.requests.clear()
        with pytest.raises(SnapshotConflictError) as caught:
            await save(ours, 3, **condition)
        assert (caught.value.outcome, caught.value.retryable) == ("not applied", False)
        assert proxy.operations == ["PutObject", "HeadObject"]
    assert await count_in(ours) == 2


async def test_a_conflict_with_an_sdk_is_a_conflict(storages, s3_client, bucket, prefix) -> None:
    ours, _, _ = storages
    first = await save(ours, 1)
    await s3_client.put_object(Bucket=bucket, Key=f"{prefix}/{KEY}", Body=b"{}")
    with pytest.raises(SnapshotConflictError):
        await save(ours, 2, if_match=first)


async def test_what_aiohttp_sends_again_by_itself_is_a_success(s3_server, bucket, prefix) -> None:
    async with (
        recording_proxy(s3_server.endpoint_url) as proxy,
        get_session().create_client(
            "s3", **{**s3_server.client_options, "endpoint_url": proxy.endpoint_url}
        ) as client,
        S3Storage(bucket, prefix=prefix, client=client) as storage,
    ):
        first = await save(storage, 1)
        fail_puts(proxy, LOST)
        await save(storage, 2, if_match=first)
        assert proxy.operations == ["PutObject", "PutObject", "HeadObject"]
        assert await count_in(storage) == 2


async def test_a_lineage_stays_within_what_s3_allows_for_metadata(storages) -> None:
    ours, _, proxy = storages
    for _ in range(45):
        await ours.update_latest(location=LOCATION, update=add_one)
    headers = proxy.requests[-1].headers
    names = [name for name in headers if name.lower().startswith("x-amz-meta-")]
    assert sum(len(headers[name]) for name in names) > 1000
    assert sum(len(name) - len("x-amz-meta-") + len(headers[name]) for name in names) < 2048


async def test_a_write_over_what_an_sdk_wrote_is_settled_too(
    storages, s3_client, bucket, prefix
) -> None:
    ours, others, proxy = storages
    await save(ours, 1)
    body = (
        b'{"scope":"agent","schemaVersion":"1.0","createdAt":"t","data":{"count":4},"appData":{}}'
    )
    await s3_client.put_object(Bucket=bucket, Key=f"{prefix}/{KEY}", Body=body)
    fail_puts(proxy, LOST)
    await ours.update_latest(location=LOCATION, update=add_one)
    assert await count_in(ours) == 5

    await s3_client.put_object(Bucket=bucket, Key=f"{prefix}/{KEY}", Body=body)
    read = await ours.load_versioned(location=LOCATION)

    async def come_first() -> None:
        await others.update_latest(location=LOCATION, update=add_one)

    fail_puts(proxy, NEVER_ARRIVED, then=come_first)
    with pytest.raises(SnapshotConflictError):
        await save(ours, 9, if_match=read)


async def test_a_write_that_may_still_be_on_its_way_is_unknown(storages) -> None:
    ours, _, proxy = storages
    first = await save(ours, 1)
    fail_puts(proxy, *[NEVER_ARRIVED] * 9)
    with pytest.raises(OutcomeUnknownError):
        await save(ours, 2, if_match=first)
    fail_puts(proxy)
    assert await count_in(ours) == 1


async def test_a_server_that_turns_requests_away_has_not_applied_them(storages) -> None:
    ours, _, proxy = storages
    first = await save(ours, 1)
    fail_puts(proxy, *[BUSY] * 9)
    with pytest.raises(StorageUnavailableError) as caught:
        await save(ours, 2, if_match=first)
    assert (caught.value.outcome, caught.value.retryable) == ("not applied", True)
    assert set(proxy.operations) == {"PutObject"}
    fail_puts(proxy)
    assert await count_in(ours) == 1


async def test_write_lost_before_a_refusal_is_unknown(
    storages,
) -> None:
    ours, _, proxy = storages
    first = await save(ours, 1)
    fail_puts(proxy, NEVER_ARRIVED, *[BUSY] * 9)
    with pytest.raises(OutcomeUnknownError, match="may yet be applied"):
        await save(ours, 2, if_match=first)
    assert proxy.operations[-2:] == ["PutObject", "HeadObject"]


async def test_a_gateway_that_gives_up_leaves_it_unknown(storages) -> None:
    ours, _, proxy = storages
    first = await save(ours, 1)
    fail_puts(proxy, *[Fault.error(504, "GatewayTimeout")] * 9)
    with pytest.raises(OutcomeUnknownError, match="may yet be applied"):
        await save(ours, 2, if_match=first)


async def test_a_server_that_is_down_is_unavailable_and_not_unknown(
    storages, bucket, prefix
) -> None:
    ours, _, _ = storages
    first = await save(ours, 1)
    async with S3Storage(bucket, prefix=prefix, endpoint_url="http://127.0.0.1:9") as down:
        with pytest.raises(StorageUnavailableError) as caught:
            await save(down, 2, if_match=first)
    assert (caught.value.outcome, caught.value.retryable) == ("not applied", True)


async def test_write_that_cannot_be_read_back_is_unknown(storages) -> None:
    ours, _, proxy = storages
    first = await save(ours, 1)
    plan = [LOST]

    async def fault(request):
        if request.operation == "HeadObject":
            return Fault.error(403, "AccessDenied")
        return plan.pop() if plan else None

    proxy.fault = fault
    with pytest.raises(OutcomeUnknownError):
        await save(ours, 2, if_match=first)
    fail_puts(proxy)
    assert await count_in(ours) == 2


async def test_history_whose_reply_was_lost_is_a_success(storages) -> None:
    ours, _, proxy = storages
    snapshot_id = new_snapshot_id()
    fail_puts(proxy, LOST)
    saved = await ours.save_snapshot(
        location=LOCATION, snapshot=counted(1), is_latest=False, snapshot_id=snapshot_id
    )
    assert saved.snapshot_id == snapshot_id
    assert await ours.list_snapshot_ids(location=LOCATION) == [snapshot_id]


@pytest.mark.parametrize("seed", range(3))
async def test_counters_add_up_although_responses_are_lost(
    s3_server, bucket, prefix, monkeypatch, seed
) -> None:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    chance = random.Random(seed)

    async def fault(request):
        if request.operation != "PutObject" or chance.random() < 0.6:
            return None
        conflict = Fault.error(409, "ConditionalRequestConflict")
        return chance.choice([LOST, NEVER_ARRIVED, SENT_TWICE, HELD, BUSY, conflict])

    @asynccontextmanager
    async def worker():
        async with S3Storage(bucket, prefix=prefix, endpoint_url=proxy.endpoint_url) as storage:
            yield storage

    async def count() -> None:
        async with worker() as storage:
            for _ in range(10):
                await storage.update_latest(location=LOCATION, update=add_one)

    async with recording_proxy(s3_server.endpoint_url) as proxy:
        # What replaces a version can be resolved always; a create that is lost can't.
        async with worker() as storage:
            await save(storage, 0)
        proxy.fault = fault
        await asyncio.gather(*(count() for _ in range(5)))
        async with worker() as storage:
            assert await count_in(storage) == 50


@pytest.mark.parametrize(
    "lineage", ["=?UTF-8?B?w7w=?= x", "zürich", "created created=", "=" * 1500]
)
async def test_metadata_that_is_not_of_our_making_is_not_carried_on(
    storages, s3_client, bucket, prefix, lineage
) -> None:
    ours, _, proxy = storages
    body = b'{"scope":"agent","schemaVersion":"1","createdAt":"t","data":{"count":1},"appData":{}}'
    await s3_client.put_object(
        Bucket=bucket,
        Key=f"{prefix}/{KEY}",
        Body=body,
        Metadata={"snapstore-write": quote(lineage), "snapstore-lineage": quote(lineage)},
    )
    await ours.update_latest(location=LOCATION, update=add_one)
    [carried] = [
        value
        for name, value in proxy.requests[-1].headers.items()
        if name.lower() == "x-amz-meta-snapstore-lineage"
    ]
    assert carried.startswith("-:")
    assert " " not in carried
    assert await count_in(ours) == 2
