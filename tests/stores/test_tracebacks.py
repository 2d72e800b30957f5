"""What error trackers see: neither conversations nor secrets are in the variables of a traceback.

`test_faults` looks at the frames of each fault in each operation. Here are those of cancellations,
which pass through everything, and of what is refused.
"""

import asyncio

import pytest
from aiobotocore.session import get_session

from sampling import product, sample
from snapstore import (
    MemoryStorage,
    ObjectSnapshotStorage,
    S3Storage,
    Snapshot,
    SnapshotConflictError,
    SnapshotDecodeError,
    SnapshotExistsError,
    SnapshotLocation,
)
from snapstore.stores.base import Body
from snapstore.stores.memory import MemoryObjectStore
from snapstore.testing.proxy import Fault, recording_proxy
from snapstore.testing.samples import CANARY, everything_in_frames, snapshot_ids

LOCATION = SnapshotLocation.agent("s-1", "weather")
SNAPSHOT = Snapshot.new({"text": CANARY * 10})
[OLD_ID] = snapshot_ids(1)
TOKEN = "SESSION-TOKEN-8f2e"
NEVER = 3600.0

OPERATIONS = {
    "save": lambda storage: storage.save_snapshot(
        location=LOCATION, snapshot=SNAPSHOT, is_latest=True
    ),
    "create": lambda storage: storage.save_snapshot(
        location=LOCATION, snapshot=SNAPSHOT, is_latest=True, if_none_match=True
    ),
    "history": lambda storage: storage.save_snapshot(
        location=LOCATION, snapshot=SNAPSHOT, is_latest=False
    ),
    "checkpoint": lambda storage: storage.checkpoint(location=LOCATION, snapshot=SNAPSHOT),
    "update": lambda storage: storage.update_latest(location=LOCATION, update=lambda _: SNAPSHOT),
    "load": lambda storage: storage.load_snapshot(location=LOCATION),
    "load_raw": lambda storage: storage.load_raw(location=LOCATION),
    "list": lambda storage: storage.list_snapshot_ids(location=LOCATION),
    "delete": lambda storage: storage.delete_session(session_id="s-1"),
    "manifest": lambda storage: storage.load_manifest(location=LOCATION),
}


async def outcome_of(work):
    """What it returns; if it is cancelled, the very exception that has passed through it."""
    try:
        return await work
    except asyncio.CancelledError as error:
        return error


def assert_silent(error, *secrets):
    shown = list(everything_in_frames(error))
    assert shown  # there were frames of ours to look at
    for text in shown:
        assert not any(secret in text for secret in (CANARY, TOKEN, *secrets)), text


@pytest.mark.parametrize(
    ("operation", "fault", "kind"),
    sample(
        product(
            operation=dict(enumerate(OPERATIONS)),
            fault={
                "stalled": Fault(stall=NEVER),
                "dripping": Fault(drip=NEVER),
                "delayed": Fault(delay=NEVER),
            },
            kind={name: name for name in ("fast path", "slow path", "borrowed")},
        ),
        one_in=4,
    ),
)
async def test_a_cancelled_operation_shows_nothing(
    operation, fault, kind, s3_server, bucket, prefix
) -> None:
    session = get_session()
    session.set_credentials(s3_server.access_key, s3_server.secret_key)
    async with recording_proxy(s3_server.endpoint_url) as proxy:
        reached = asyncio.Event()
        own = {"region": s3_server.region, "endpoint_url": proxy.endpoint_url, "session": session}
        options = {**s3_server.client_options, "endpoint_url": proxy.endpoint_url}
        async with session.create_client("s3", **options) as client:
            if kind == "borrowed":
                own = {"client": client}
            async with S3Storage(
                bucket, prefix=prefix, direct=kind != "slow path", **own
            ) as storage:
                await storage.save_snapshot(location=LOCATION, snapshot=SNAPSHOT, is_latest=True)
                await storage.load_snapshot(location=LOCATION)

                async def stick(request):
                    reached.set()
                    return fault

                proxy.fault = stick
                working = asyncio.create_task(outcome_of(OPERATIONS[operation](storage)))
                await reached.wait()
                await asyncio.sleep(0.05)
                working.cancel()
                error = await working
    if isinstance(error, asyncio.CancelledError):  # what has no body does not drip
        assert_silent(error, s3_server.secret_key, "Signature=")


async def test_credentials_do_not_show_where_a_request_is_cancelled(s3_server) -> None:
    session = get_session()
    session.set_credentials("access-key", "SECRET-KEY-8f2e", TOKEN)
    async with recording_proxy(s3_server.endpoint_url) as proxy:
        reached = asyncio.Event()

        async def stick(_):
            reached.set()
            return Fault(delay=NEVER)

        proxy.fault = stick
        own = {"region": "us-east-1", "endpoint_url": proxy.endpoint_url, "session": session}
        for direct in (True, False):
            reached.clear()
            async with S3Storage("bucket", direct=direct, **own) as storage:
                working = asyncio.create_task(outcome_of(OPERATIONS["save"](storage)))
                await reached.wait()
                working.cancel()
                error = await working
                assert isinstance(error, asyncio.CancelledError)
                assert_silent(error, "SECRET-KEY-8f2e", "Signature=")


class Unversioned(MemoryObjectStore):
    """Somebody's store, whose bodies are plain bytes."""

    async def get(self, key, *, max_bytes):
        stored = await super().get(key, max_bytes=max_bytes)
        return stored and type(stored)(bytes(stored.data), stored.version)


@pytest.mark.parametrize("store", [MemoryObjectStore, Unversioned])
async def test_what_is_refused_shows_nothing(store) -> None:
    async with ObjectSnapshotStorage(store()) as storage:
        await storage.save_snapshot(
            location=LOCATION, snapshot=SNAPSHOT, is_latest=False, snapshot_id=OLD_ID
        )
        await OPERATIONS["save"](storage)
        other = Snapshot.new({"text": CANARY})
        with pytest.raises(SnapshotConflictError) as caught:
            await OPERATIONS["create"](storage)
        assert_silent(caught.value)
        with pytest.raises(SnapshotExistsError) as caught:
            await storage.save_snapshot(
                location=LOCATION, snapshot=other, is_latest=False, snapshot_id=OLD_ID
            )
        assert_silent(caught.value)


async def test_an_object_that_is_too_large_shows_nothing() -> None:
    storage = MemoryStorage(max_snapshot_bytes=10)
    key = "s-1/scopes/agent/weather/snapshots/snapshot_latest.json"
    storage.objects.store.objects[key] = CANARY.encode() * 10
    async with storage:
        with pytest.raises(SnapshotDecodeError, match="too large") as caught:
            await storage.load_snapshot(location=LOCATION)
    assert_silent(caught.value)


def test_a_body_is_bytes_that_do_not_show() -> None:
    body = Body(CANARY.encode())
    assert body == CANARY.encode()
    assert hash(body) == hash(CANARY.encode())
    assert (body[0], bytes(body[1:3])) == (ord(CANARY[0]), CANARY[1:3].encode())
    for text in (repr(body), str(body), f"{body}", f"{body[:5]!r}", repr([body])):
        assert CANARY[:5] not in text
    assert repr(body) == f"<{len(CANARY)} bytes>"
