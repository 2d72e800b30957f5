"""What `delete_session` deletes, in which order, and what is left when it is cut off."""

import asyncio
import itertools
import logging
from collections import Counter

import pytest

from snapstore import (
    DeletedSession,
    InvalidResponseError,
    ObjectSnapshotStorage,
    PartialDeleteError,
    StorageUnavailableError,
)
from snapstore.stores.memory import MemoryObjectStore
from snapstore.testing import FaultyObjectStore, StoreFault

SNAPSHOTS = "s-1/scopes/agent/weather/snapshots"
OWN = [
    f"{SNAPSHOTS}/immutable_history/snapshot_01912a3b-0000-7000-8000-000000000001.json",
    f"{SNAPSHOTS}/immutable_history/snapshot_01912a3b-0000-7000-8000-000000000002.json",
    f"{SNAPSHOTS}/manifest.json",
    f"{SNAPSHOTS}/snapshot_latest.json",
    "s-1/scopes/multiAgent/graph/snapshots/snapshot_latest.json",
]
BESIDE = [
    "s-1/attachments/picture.png",
    "s-1/scopes/agent/weather/notes.txt",
    "s-1/scopes/notes.txt",
    "s-1/zebra.txt",
]
NESTED = ["s-1/eu/scopes/agent/a/snapshots/snapshot_latest.json", "s-1/memory/facts.md"]
STRANGERS = ["s-10/scopes/agent/a/snapshots/manifest.json", "s-2/notes.txt"]

ORDERS = {
    "bytes": lambda key: key,
    "directories first": lambda key: key.replace("/", "\x00"),
    "backwards": lambda key: tuple(-ord(character) for character in key),
}


class PagedStore(MemoryObjectStore):
    """Lists in an order of its own, in pages of its own size, whatever it is asked for."""

    def __init__(self, keys, *, order="bytes", page_size=2):
        super().__init__()
        self.objects = dict.fromkeys(keys, b"{}")
        self.order = ORDERS[order]
        self.page_size = page_size
        self.batches = []

    async def scan(self, prefix, *, start_after=None, page_size=1000):
        # As S3 does, it goes on after the last key that it gave, also if that is deleted meanwhile.
        after = None
        while True:
            left = sorted((key for key in self.objects if key.startswith(prefix)), key=self.order)
            left = [key for key in left if after is None or self.order(key) > self.order(after)]
            if left or after is None:
                yield left[: self.page_size]
            if len(left) <= self.page_size:
                return
            after = left[self.page_size - 1]

    async def delete(self, keys):
        assert len(keys) == len(set(keys)) <= 1000
        self.batches.append(list(keys))
        return await super().delete(keys)


def storage_on(store):
    return ObjectSnapshotStorage(store)


async def delete(storage, session_id="s-1"):
    return await storage.delete_session(session_id=session_id)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("page_size", [1, 2, 3, 1000])
async def test_a_session_is_deleted_whatever_the_order_and_the_pages(order, page_size) -> None:
    store = PagedStore([*OWN, *BESIDE, *NESTED, *STRANGERS], order=order, page_size=page_size)
    async with storage_on(store) as storage:
        assert await delete(storage) == DeletedSession(len(OWN + BESIDE), len(NESTED))
    assert sorted(store.objects) == sorted(NESTED + STRANGERS)


def is_own(key):
    return "/snapshots/" in key and key not in NESTED


@pytest.mark.parametrize("how", ["refused", "applied", "cancelled"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("page_size", [1, 3, 1000])
async def test_a_delete_that_is_cut_off_anywhere_can_be_repeated(order, page_size, how) -> None:
    """At each of its requests in turn."""
    for cut in itertools.count():
        store = PagedStore([*OWN, *BESIDE, *NESTED], order=order, page_size=page_size)
        faulty = FaultyObjectStore(store)
        requests = itertools.count()

        async def fault(_, requests=requests, cut=cut):
            if next(requests) == cut:
                if how == "cancelled":
                    raise asyncio.CancelledError
                return StoreFault(applied=how == "applied")
            return None

        faulty.fault = fault
        async with storage_on(faulty) as storage:
            try:
                await delete(storage)
            except (StorageUnavailableError, PartialDeleteError, asyncio.CancelledError):
                left = sorted(set(store.objects) - set(NESTED))
                # What is left shows that there is a session, unless nothing is.
                assert not left or any(map(is_own, left))
            else:
                assert next(requests) <= cut
                break
            faulty.fault = pass_all
            assert await delete(storage) == DeletedSession(len(left), len(NESTED) if left else 2)
        assert sorted(store.objects) == sorted(NESTED)
    assert cut >= 2


async def pass_all(_):
    return None


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("page_size", [1, 3, 1000])
@pytest.mark.parametrize("stuck", [*OWN, *BESIDE])
async def test_whichever_key_fails_the_delete_can_be_repeated(order, page_size, stuck) -> None:
    store = PagedStore([*OWN, *BESIDE], order=order, page_size=page_size)
    faulty = FaultyObjectStore(store)

    async def fault(call):
        return StoreFault(failed={stuck: "InternalError"}) if call.operation == "delete" else None

    faulty.fault = fault
    async with storage_on(faulty) as storage:
        with pytest.raises(PartialDeleteError, match="delete the session again") as caught:
            await delete(storage)
        # Named are those that are left, and no others.
        assert sorted(caught.value.failed) == sorted(store.objects)
        assert caught.value.failed[stuck] == "InternalError"
        assert set(caught.value.failed.values()) <= {"InternalError", "Unconfirmed"}
        faulty.fault = pass_all
        assert (await delete(storage)).objects == len(caught.value.failed)
    assert store.objects == {}


@pytest.mark.parametrize(
    ("keys", "page_size", "expected"),
    [
        # After a history is deleted, one more listing looks for packs.
        (OWN, 1000, {"scan": 2, "delete": 1}),
        (OWN[2:], 1000, {"scan": 1, "delete": 1}),
        (OWN, 2, {"scan": 4, "delete": 3}),
        ([], 1000, {"scan": 1}),
        ([*OWN, *BESIDE], 1000, {"scan": 2, "delete": 2}),
        (BESIDE, 1000, {"scan": 2}),
    ],
    ids=[
        "a session",
        "without history",
        "of three pages",
        "of none",
        "with other keys",
        "no session",
    ],
)
async def test_a_session_of_our_objects_alone_takes_no_request_more(
    keys, page_size, expected
) -> None:
    store = FaultyObjectStore(PagedStore(keys, page_size=page_size))
    async with storage_on(store) as storage:
        await delete(storage)
    assert Counter(call.operation for call in store.calls) == expected


async def test_what_is_no_session_is_counted_and_logged_once(caplog) -> None:
    caplog.set_level(logging.WARNING, "snapstore")
    keys = ["backups/scopes/notes.txt", *(f"backups/{n}.tar" for n in range(10))]
    store = PagedStore([*keys, *OWN])
    async with storage_on(store) as storage:
        assert await delete(storage, "backups") == DeletedSession(0, 11)
    assert store.batches == []
    [record] = caplog.records
    assert "kept 11 objects under backups/ since there is no session" in record.getMessage()


async def test_delete_finds_the_session_by_its_last_page() -> None:
    others = [f"s-1/a/{n:02}.txt" for n in range(20)]
    store = PagedStore([*others, OWN[-1]])
    async with storage_on(store) as storage:
        assert await delete(storage) == DeletedSession(21, 0)
    assert store.batches[-1] == [OWN[-1]]


async def test_delete_splits_a_large_page_into_batches_of_1000() -> None:
    keys = [f"{SNAPSHOTS}/immutable_history/{n:04}" for n in range(2_500)]
    store = PagedStore(keys, page_size=2_500)
    async with storage_on(store) as storage:
        assert await delete(storage) == DeletedSession(2_500, 0)
    assert [len(batch) for batch in store.batches] == [1000, 1000, 500]


class Interrupted:
    """Some keys fail in the first batch, and then a request as a whole."""

    def __init__(self, *, at):
        self.at = at
        self.seen = Counter()
        self.stuck = {}

    async def __call__(self, call):
        self.seen[call.operation] += 1
        if call.operation == "delete" and self.seen["delete"] == 1:
            self.stuck = {call.keys[0]: "AccessDenied"}
            return StoreFault(failed=self.stuck)
        if (call.operation, self.seen[call.operation]) == self.at:
            return StoreFault()
        return None


@pytest.mark.parametrize("at", [("delete", 2), ("scan", 3)], ids=["a batch", "a page"])
async def test_what_failed_before_a_request_failed_is_in_the_report(at) -> None:
    store = PagedStore([*OWN, "s-1/zebra.txt"])
    faulty = FaultyObjectStore(store, Interrupted(at=at))
    async with storage_on(faulty) as storage:
        with pytest.raises(PartialDeleteError) as caught:
            await delete(storage)
        error = caught.value
        assert faulty.fault.stuck.items() < error.failed.items()
        assert "AccessDenied" in str(error)
        assert "did not reach the store" in str(error)
        assert isinstance(error.__cause__, StorageUnavailableError)
        assert error.failed.keys() <= store.objects.keys()
        # The object of the layout that is deleted last, and what the batch asked for.
        assert set(error.failed.values()) == {"AccessDenied", "Unconfirmed"}
        faulty.fault = pass_all
        await delete(storage)
    assert store.objects == {}


async def test_a_request_that_fails_alone_is_the_error_itself() -> None:
    store = FaultyObjectStore(PagedStore(OWN))

    async def fault(call):
        return StoreFault() if call.operation == "delete" else None

    store.fault = fault
    async with storage_on(store) as storage:
        with pytest.raises(StorageUnavailableError):
            await delete(storage)


async def test_a_foreign_key_on_a_later_page_loses_no_report() -> None:
    class Broken(PagedStore):
        async def scan(self, prefix, *, start_after=None, page_size=1000):
            yield OWN[:3]
            yield OWN[3:]
            yield ["s-10/notes.txt"]

        async def delete(self, keys):
            return {} if OWN[3] in keys else {keys[0]: "AccessDenied"}

    async with storage_on(Broken(OWN)) as storage:
        with pytest.raises(PartialDeleteError, match="not under it") as caught:
            await delete(storage)
    assert isinstance(caught.value.__cause__, InvalidResponseError)
    assert caught.value.failed == {OWN[1]: "AccessDenied", OWN[0]: "Unconfirmed"}


async def test_delete_counts_an_object_saved_after_its_page_was_listed() -> None:
    store = PagedStore(NESTED[:1])

    async def save_meanwhile(call):
        if call.keys == ("s-1/",):
            store.objects[OWN[3]] = b"{}"

    async with storage_on(FaultyObjectStore(store, save_meanwhile)) as storage:
        deleted = await storage.delete_session(session_id="s-1")
    assert deleted == DeletedSession(1, 1)
    assert sorted(store.objects) == NESTED[:1]
