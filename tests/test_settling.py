"""Conditional writes whose reply is lost: success, conflict or unknown, and never falsely."""

import asyncio
import random
from contextlib import asynccontextmanager
from urllib.parse import quote

import pytest
from aiobotocore.session import get_session

from snapstore import (
    OutcomeUnknownError,
    S3Storage,
    SavedSnapshot,
    Snapshot,
    SnapshotConflictError,
    SnapshotLocation,
    StorageUnavailableError,
    VersionedSnapshot,
    new_snapshot_id,
)
from snapstore.testing.proxy import Fault, recording_proxy

LOCATION = SnapshotLocation.agent("s-1", "counter")
ELSEWHERE = SnapshotLocation.agent("s-2", "counter")
KEY = "s-1/scopes/agent/counter/snapshots/snapshot_latest.json"
LOST = Fault(lost=True)
NEVER_ARRIVED = Fault(lost=True, forward=False)


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


@pytest.fixture(params=[True, False], ids=["direct", "generic"])
async def storages(s3_server, bucket, prefix, monkeypatch, request):
    """Two storages on one prefix: one behind a proxy, the other not; and the proxy."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    async with (
        recording_proxy(s3_server.endpoint_url) as proxy,
        S3Storage(
            bucket, prefix=prefix, endpoint_url=proxy.endpoint_url, direct=request.param
        ) as ours,
        S3Storage(bucket, prefix=prefix) as others,
    ):
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
    assert read == VersionedSnapshot(read.snapshot, saved.etag, saved.lineage)


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


async def test_a_write_that_was_lost_and_then_written_over_is_a_success_with_its_own_etag(
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


async def test_a_write_that_never_arrived_before_another_came_first_is_a_conflict(
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


async def test_a_create_that_never_arrived_before_another_is_a_conflict(storages) -> None:
    ours, others, proxy = storages

    async def come_first() -> None:
        await others.update_latest(location=LOCATION, update=add_one)

    fail_puts(proxy, NEVER_ARRIVED, then=come_first)
    with pytest.raises(SnapshotConflictError):
        await save(ours, 2, if_none_match=True)
    assert await count_in(ours) == 1


async def test_a_write_that_a_foreign_writer_may_have_written_over_is_unknown(
    storages, s3_client, bucket, prefix
) -> None:
    ours, _, proxy = storages
    first = await save(ours, 1)

    async def write_as_an_sdk() -> None:
        await s3_client.put_object(Bucket=bucket, Key=f"{prefix}/{KEY}", Body=b"{}")

    fail_puts(proxy, LOST, then=write_as_an_sdk)
    with pytest.raises(OutcomeUnknownError, match="may have been applied") as caught:
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


async def test_an_ordinary_conflict_through_a_borrowed_client_is_a_conflict(
    storages, s3_server, bucket, prefix
) -> None:
    _, others, _ = storages
    async with (
        get_session().create_client("s3", **s3_server.client_options) as client,
        S3Storage(bucket, prefix=prefix, client=client) as storage,
    ):
        with pytest.raises(SnapshotConflictError):
            await save(storage, 1, if_match="0" * 32)
        first = await save(others, 1)
        await save(others, 2)
        for condition in ({"if_match": first}, {"if_match": first.etag}, {"if_none_match": True}):
            with pytest.raises(SnapshotConflictError):
                await save(storage, 3, **condition)
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


async def test_a_server_that_answers_no_is_unavailable_and_not_unknown(storages) -> None:
    ours, _, proxy = storages
    first = await save(ours, 1)
    fail_puts(proxy, *[Fault.error(503, "SlowDown")] * 9)
    with pytest.raises(StorageUnavailableError):
        await save(ours, 2, if_match=first)
    fail_puts(proxy)
    assert await count_in(ours) == 1


async def test_a_try_that_was_lost_before_the_server_answered_no_leaves_it_unknown(
    storages,
) -> None:
    ours, _, proxy = storages
    first = await save(ours, 1)
    fail_puts(proxy, NEVER_ARRIVED, *[Fault.error(503, "SlowDown")] * 9)
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
        with pytest.raises(StorageUnavailableError):
            await save(down, 2, if_match=first)


async def test_where_the_object_can_not_be_looked_at_the_outcome_is_unknown(storages) -> None:
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


async def test_a_plain_conflict_costs_no_request_more_with_our_own_client(storages) -> None:
    ours, _, proxy = storages
    first = await save(ours, 1)
    await save(ours, 2)
    fail_puts(proxy)
    with pytest.raises(SnapshotConflictError):
        await save(ours, 3, if_match=first)
    assert proxy.operations == ["PutObject"]


async def test_a_borrowed_client_may_have_sent_it_twice_so_a_conflict_is_looked_at(
    s3_server, bucket, prefix
) -> None:
    async with (
        recording_proxy(s3_server.endpoint_url) as proxy,
        get_session().create_client(
            "s3", **{**s3_server.client_options, "endpoint_url": proxy.endpoint_url}
        ) as client,
        S3Storage(bucket, prefix=prefix, client=client) as storage,
    ):
        first = await save(storage, 1)
        # aiohttp sends it again on its own, on the connection that it has kept.
        fail_puts(proxy, LOST)
        second = await save(storage, 2, if_match=first)
        assert await count_in(storage) == 2

        await save(storage, 3, if_match=second)
        fail_puts(proxy)
        with pytest.raises(SnapshotConflictError):
            await save(storage, 4, if_match=second)
        assert proxy.operations == ["PutObject", "HeadObject"]


@pytest.mark.parametrize("seed", range(3))
async def test_five_workers_that_count_to_ten_end_at_fifty_although_replies_are_lost(
    s3_server, bucket, prefix, monkeypatch, seed
) -> None:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    chance = random.Random(seed)

    async def fault(request):
        if request.operation != "PutObject" or chance.random() < 0.6:
            return None
        conflict = Fault.error(409, "ConditionalRequestConflict")
        return chance.choice([LOST, LOST, NEVER_ARRIVED, conflict])

    @asynccontextmanager
    async def worker():
        async with S3Storage(bucket, prefix=prefix, endpoint_url=proxy.endpoint_url) as storage:
            yield storage

    async def count() -> None:
        async with worker() as storage:
            for _ in range(10):
                await storage.update_latest(location=LOCATION, update=add_one)

    async with recording_proxy(s3_server.endpoint_url) as proxy:
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
