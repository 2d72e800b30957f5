# ruff: noqa: D102 -- the name of a test says what it checks
"""The conformance suite for an object store."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from random import Random
from typing import Any, Final

import pytest

from snapstore.storage.snapshots import ObjectSnapshotStorage
from snapstore.stores.base import (
    PAGE_SIZE,
    ObjectTooLargeError,
    PreconditionFailedError,
    StoredObject,
    Version,
)
from snapstore.testing.samples import MORE_THAN_A_PAGE
from snapstore.testing.subjects import StoreSubject, seed

__all__ = ["ObjectStoreTests"]

MIB: Final = 2**20

BODIES: Final[dict[str, bytes]] = {
    "nothing": b"",
    "one byte": b"\x00",
    "JSON": b'{"text":"Z\xc3\xbcrich"}',
    "line breaks": b"\r\n\n\r",
    "every byte there is": bytes(range(256)),
    "no UTF-8": b"\xff\xfe\xed\xa0\xbd",
    "a megabyte and some": Random(1).randbytes(MIB + 3),
}

ODD_KEYS: Final = (
    "folder/a b.json",
    "folder/a+b.json",
    "folder/a%2Fb%41.json",
    "folder/a&b=c?d#e.json",
    "folder/<a>'b'\"c\".json",
    "folder/a*b[c]{d}~e.json",
    "folder/Zürich 你好 🌧.json",
    "folder/a:b;c,d@e$f!g(h).json",
    f"folder/{'x' * 255}",
    # What XML has no word for.
    "folder/a\x01b.json",
    "folder/a\tb.json",
    "folder/a\ufffeb.json",
)


class ObjectStoreTests:
    """Holds a store to the contract of `ObjectStore`.

    Subclass it with a fixture `subject` that gives an open store with nothing in it, and a way to
    reach its objects without it; a fresh one for each test. The tests carry no mark of an async
    framework: give your class the one you use, pytest-asyncio's or anyio's (on asyncio).

    Example:
        A store that keeps its objects in a dictionary, under anyio::

            import pytest

            from my_package import MyStore
            from snapstore.testing import DictObjects, ObjectStoreTests, StoreSubject


            @pytest.fixture
            def anyio_backend():
                return "asyncio"


            class TestMyStore(ObjectStoreTests):
                pytestmark = pytest.mark.anyio

                @pytest.fixture
                async def subject(self):
                    objects = {}
                    store = MyStore(objects)
                    await store.open()
                    yield StoreSubject(store, DictObjects(objects))
                    await store.aclose()

        With pytest-asyncio the mark is `pytest.mark.asyncio`, and the fixture a
        `pytest_asyncio.fixture`.
    """

    # Getting and putting

    async def test_a_missing_object_is_none(self, subject: StoreSubject) -> None:
        assert await subject.store.get("folder/key", max_bytes=MIB) is None
        await seed(subject.raw, {"folder/key2": b"", "folder2/key": b"", "folder/ke": b""})
        assert await subject.store.get("folder/key", max_bytes=MIB) is None
        assert await subject.store.get("folder", max_bytes=MIB) is None

    @pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
    async def test_a_body_is_stored_and_read_as_it_is(
        self, subject: StoreSubject, body: bytes
    ) -> None:
        version = await subject.store.put("folder/key", body)
        stored = await subject.store.get("folder/key", max_bytes=2 * MIB)
        await subject.raw.put("folder/by-another", body)
        read = await subject.store.get("folder/by-another", max_bytes=2 * MIB)
        assert stored is not None
        assert read is not None
        assert stored.version == version
        # Compared apart from the assertion, which would put two bodies of a megabyte side by side.
        bodies = [await subject.raw.get("folder/key"), stored.data, read.data]
        assert [found == body for found in bodies] == [True, True, True]

    @pytest.mark.parametrize("key", ODD_KEYS)
    async def test_a_key_is_any_text(self, subject: StoreSubject, key: str) -> None:
        version = await subject.store.put(key, b"body")
        assert await subject.raw.keys() == [key]
        assert await subject.store.get(key, max_bytes=MIB) == StoredObject(b"body", version)
        assert await scanned(subject, "folder/") == [key]
        assert await scanned(subject, key) == [key]
        assert await scanned(subject, "folder/", start_after=key) == []
        assert await subject.store.delete([key]) == {}
        assert await subject.raw.keys() == []

    async def test_a_key_may_be_1024_bytes_long(self, subject: StoreSubject) -> None:
        key = "/".join(["x" * 203] * 5) + "/long"
        assert len(key) == 1_024
        await subject.store.put(key, b"body")
        assert await subject.raw.keys() == [key]
        assert await scanned(subject, key[:-1]) == [key]

    async def test_a_put_replaces_the_whole_object(self, subject: StoreSubject) -> None:
        await subject.store.put("folder/key", b"long " * 1_000)
        version = await subject.store.put("folder/key", b"short")
        assert await subject.store.get("folder/key", max_bytes=MIB) == StoredObject(
            b"short", version
        )
        assert await subject.raw.keys() == ["folder/key"]

    async def test_another_content_has_another_etag_without_quotes(
        self, subject: StoreSubject
    ) -> None:
        bodies = [b"", b"a", b"b", b"a" * 1_000, b"a" * 1_001]
        versions = [await subject.store.put("folder/key", body) for body in bodies]
        etags = [version.etag for version in versions]
        assert len(set(etags)) == len(bodies)
        assert all(etags)
        assert not any('"' in etag for etag in etags)

    async def test_an_object_written_by_another_has_another_etag(
        self, subject: StoreSubject
    ) -> None:
        version = await subject.store.put("folder/key", b"ours")
        await subject.raw.put("folder/key", b"another's")
        read = await subject.store.get("folder/key", max_bytes=MIB)
        assert read is not None
        assert read.version.etag != version.etag

    async def test_an_object_larger_than_allowed_is_not_read(self, subject: StoreSubject) -> None:
        await seed(subject.raw, {"folder/key": b"x" * 100, "folder/empty": b""})
        read = await subject.store.get("folder/key", max_bytes=100)
        assert read is not None
        for max_bytes in (99, 1, 0):
            with pytest.raises(ObjectTooLargeError) as raised:
                await subject.store.get("folder/key", max_bytes=max_bytes)
            assert raised.value.key == "folder/key"
        assert await subject.store.get("folder/empty", max_bytes=0) is not None
        # The refusals have left nothing behind that would disturb the next read.
        assert await subject.store.get("folder/key", max_bytes=100) == read

    async def test_writers_and_readers_at_once_see_whole_objects(
        self, subject: StoreSubject
    ) -> None:
        bodies = [bytes([n]) * 50_000 for n in range(5)]
        writes = asyncio.gather(*(subject.store.put("folder/key", body) for body in bodies))
        reads = asyncio.gather(*(subject.store.get("folder/key", max_bytes=MIB) for _ in range(5)))
        await writes
        for read in await reads:
            assert read is None or read.data in bodies
        assert await subject.raw.get("folder/key") in bodies

    async def test_a_closed_store_may_be_opened_again(self, subject: StoreSubject) -> None:
        version = await subject.store.put("folder/key", b"body")
        await subject.store.aclose()
        await subject.store.open()
        assert await subject.store.get("folder/key", max_bytes=MIB) == StoredObject(
            b"body", version
        )

    async def test_a_store_whose_loop_was_closed_opens_on_another_one(
        self, subject: StoreSubject
    ) -> None:
        version = await subject.store.put("folder/key", b"body")
        await subject.store.aclose()
        storage = ObjectSnapshotStorage(subject.store)

        def open_and_close_the_loop() -> None:
            loop = asyncio.new_event_loop()
            loop.run_until_complete(storage.open())
            loop.close()

        await asyncio.to_thread(open_and_close_the_loop)
        async with storage:
            assert await subject.store.get("folder/key", max_bytes=MIB) == StoredObject(
                b"body", version
            )
        await subject.store.open()

    # Conditions

    async def test_if_none_match_writes_only_where_there_is_no_object(
        self, subject: StoreSubject
    ) -> None:
        version = await subject.store.put("folder/key", b"first", if_none_match=True)
        for body in (b"second", b"first", b""):
            with pytest.raises(PreconditionFailedError) as raised:
                await subject.store.put("folder/key", body, if_none_match=True)
            assert raised.value.key == "folder/key"
        assert await subject.store.get("folder/key", max_bytes=MIB) == StoredObject(
            b"first", version
        )

    async def test_an_empty_object_is_one_for_if_none_match(self, subject: StoreSubject) -> None:
        await subject.raw.put("folder/key", b"")
        with pytest.raises(PreconditionFailedError):
            await subject.store.put("folder/key", b"body", if_none_match=True)
        assert await subject.raw.get("folder/key") == b""

    async def test_if_match_writes_only_over_the_version_it_names(
        self, subject: StoreSubject
    ) -> None:
        first = await subject.store.put("folder/key", b"first")
        second = await subject.store.put("folder/key", b"second", if_match=first)
        with pytest.raises(PreconditionFailedError) as raised:
            await subject.store.put("folder/key", b"third", if_match=first)
        assert raised.value.key == "folder/key"
        assert not raised.value.is_missing
        assert await subject.store.get("folder/key", max_bytes=MIB) == StoredObject(
            b"second", second
        )

    async def test_if_match_takes_the_version_of_a_read(self, subject: StoreSubject) -> None:
        await subject.raw.put("folder/key", b"another's")
        read = await subject.store.get("folder/key", max_bytes=MIB)
        assert read is not None
        await subject.store.put("folder/key", b"ours", if_match=read.version)
        assert await subject.raw.get("folder/key") == b"ours"

    async def test_if_match_fails_where_there_is_no_object(self, subject: StoreSubject) -> None:
        version = await subject.store.put("folder/key", b"body")
        await subject.store.delete(["folder/key"])
        for key in ("folder/key", "folder/another"):
            with pytest.raises(PreconditionFailedError) as raised:
                await subject.store.put(key, b"body", if_match=version)
            assert raised.value.is_missing
        assert await subject.raw.keys() == []

    async def test_if_match_looks_at_no_other_object(self, subject: StoreSubject) -> None:
        version = await subject.store.put("folder/key", b"first")
        await subject.store.put("folder/another", b"first")
        await subject.store.put("folder/key", b"second", if_match=version)
        assert await subject.raw.get("folder/another") == b"first"
        with pytest.raises(PreconditionFailedError):
            await subject.store.put("folder/key", b"third", if_match=version)

    async def test_a_version_is_not_that_of_an_object_created_since(
        self, subject: StoreSubject
    ) -> None:
        version = await subject.store.put("folder/key", b"first")
        await subject.store.delete(["folder/key"])
        await subject.store.put("folder/key", b"second", if_none_match=True)
        with pytest.raises(PreconditionFailedError):
            await subject.store.put("folder/key", b"third", if_match=version)
        assert await subject.raw.get("folder/key") == b"second"

    async def test_of_five_that_create_an_object_one_wins(self, subject: StoreSubject) -> None:
        bodies = [f"writer {n}".encode() for n in range(5)]
        results = await asyncio.gather(
            *(subject.store.put("folder/key", body, if_none_match=True) for body in bodies),
            return_exceptions=True,
        )
        winner = only_winner(results)
        assert await subject.raw.get("folder/key") == bodies[winner]

    async def test_of_five_that_replace_a_version_one_wins(self, subject: StoreSubject) -> None:
        version = await subject.store.put("folder/key", b"first")
        bodies = [f"writer {n}".encode() for n in range(5)]
        results = await asyncio.gather(
            *(subject.store.put("folder/key", body, if_match=version) for body in bodies),
            return_exceptions=True,
        )
        winner = only_winner(results)
        assert await subject.raw.get("folder/key") == bodies[winner]

    async def test_a_deleted_object_can_be_created_again(self, subject: StoreSubject) -> None:
        await subject.store.put("folder/key", b"first", if_none_match=True)
        await subject.store.delete(["folder/key"])
        assert await subject.store.get("folder/key", max_bytes=MIB) is None
        await subject.store.put("folder/key", b"second", if_none_match=True)
        assert await subject.raw.get("folder/key") == b"second"

    # Scanning

    async def test_a_scan_of_nothing_has_no_keys(self, subject: StoreSubject) -> None:
        assert await scanned(subject, "") == []
        assert await scanned(subject, "folder/") == []
        await subject.raw.put("folder/key", b"")
        assert await scanned(subject, "folder/keys") == []
        assert await scanned(subject, "folder2/") == []
        assert await scanned(subject, "older/") == []

    async def test_a_prefix_is_text_and_no_folder(self, subject: StoreSubject) -> None:
        keys = ["a/b", "a/bc", "a/b-d/e", "a/c", "ab/b", "b"]
        await seed(subject.raw, dict.fromkeys(keys, b""))
        for prefix in ("", "a", "a/", "a/b", "a/b-", "a/b-d", "a/b-d/", "a/b-d/e", "b", "c"):
            expected = sorted(key for key in keys if key.startswith(prefix))
            assert sorted(await scanned(subject, prefix)) == expected, prefix

    async def test_a_prefix_is_no_pattern_either(self, subject: StoreSubject) -> None:
        await seed(subject.raw, dict.fromkeys(["a/b", "a/bc", "ab/b"], b""))
        for prefix in ("A/b", "a_b", "a/_", "a%", "%", "a?b", "*", "a/*", "a.b", "a/[b]", "a/b$"):
            assert await scanned(subject, prefix) == [], prefix

    async def test_keys_of_one_folder_come_in_ascending_order(self, subject: StoreSubject) -> None:
        names = ["-", "0", "10", "9", "A", "Z", "_", "a", "a-b", "a.b", "a0", "aa", "b", "ü", "你"]
        await seed(subject.raw, {f"folder/{name}": b"" for name in reversed(names)})
        assert await scanned(subject, "folder/") == [f"folder/{name}" for name in names]

    async def test_start_after_is_exclusive_and_need_not_exist(self, subject: StoreSubject) -> None:
        keys = ["folder/b", "folder/d", "folder/f"]
        await seed(subject.raw, dict.fromkeys(keys, b""))
        for cursor in "abcdefg":
            start_after = f"folder/{cursor}"
            expected = [key for key in keys if key > start_after]
            assert await scanned(subject, "folder/", start_after=start_after) == expected, cursor

    async def test_every_page_size_and_start_gives_its_part_of_the_whole(
        self, subject: StoreSubject
    ) -> None:
        keys = [f"folder/{n}" for n in range(6)]
        await seed(subject.raw, dict.fromkeys([*keys, "folder-2/0", "folde/9"], b""))
        for page_size in range(1, 8):
            for start, cursor in enumerate([None, *keys]):
                found = await scanned(subject, "folder/", start_after=cursor, page_size=page_size)
                assert found == keys[start:], (page_size, cursor)

    async def test_scan_of_nested_directories_is_complete(self, subject: StoreSubject) -> None:
        keys = [
            "a/1", "a/b/1", "a/b/2", "a/b/c/1", "a/b-c/1", "a/b.c", "a/b0/1", "a/d/e/f/1", "a/z",
        ]  # fmt: skip
        await seed(subject.raw, dict.fromkeys([*keys, "a-1", "b/1"], b""))
        for page_size in range(1, 11):
            assert sorted(await scanned(subject, "a/", page_size=page_size)) == sorted(keys)

    async def test_scan_survives_deletes_page_by_page(self, subject: StoreSubject) -> None:
        keys = [f"folder/{n:04d}" for n in range(MORE_THAN_A_PAGE)]
        await seed(subject.raw, dict.fromkeys(keys, b""))
        assert await scanned(subject, "folder/") == keys
        seen: list[str] = []
        async with aclosing(subject.store.scan("folder/", page_size=250)) as pages:
            async for page in pages:
                seen += page
                assert await subject.store.delete(page) == {}
        assert seen == keys
        assert await subject.raw.keys() == []

    async def test_a_scan_comes_by_what_stays_while_others_are_deleted(
        self, subject: StoreSubject
    ) -> None:
        keys = [f"folder/{n:02d}" for n in range(30)]
        await seed(subject.raw, dict.fromkeys(keys, b""))
        seen: list[str] = []
        async with aclosing(subject.store.scan("folder/", page_size=7)) as pages:
            async for page in pages:
                assert not set(page).intersection(seen)
                seen += page
                # Of those that were seen and those that were not, every second goes.
                await subject.store.delete([key for key in keys if int(key[-1]) % 2])
        staying = [key for key in keys if not int(key[-1]) % 2]
        assert [key for key in seen if key in staying] == staying

    async def test_a_scan_may_be_left_early(self, subject: StoreSubject) -> None:
        keys = [f"folder/{n}" for n in range(9)]
        await seed(subject.raw, dict.fromkeys(keys, b""))
        scan = subject.store.scan("folder/", page_size=2)
        async with aclosing(scan) as pages:
            async for page in pages:
                assert page == keys[:2]
                break
        with pytest.raises(StopAsyncIteration):
            await anext(scan)
        assert await scanned(subject, "folder/") == keys

    async def test_a_scan_that_was_never_begun_may_be_closed(self, subject: StoreSubject) -> None:
        await subject.store.scan("folder/").aclose()
        assert await scanned(subject, "folder/") == []

    # Deleting

    async def test_only_what_is_named_is_deleted(self, subject: StoreSubject) -> None:
        keys = ["a/1", "a/10", "a/2", "a-1", "b/1", "a/b/1"]
        await seed(subject.raw, dict.fromkeys(keys, b""))
        assert await subject.store.delete(["a/1", "a/b/1"]) == {}
        assert sorted(await subject.raw.keys()) == ["a-1", "a/10", "a/2", "b/1"]

    async def test_a_missing_object_counts_as_deleted(self, subject: StoreSubject) -> None:
        assert await subject.store.delete(["folder/key"]) == {}
        await seed(subject.raw, {"folder/key": b"", "folder/stays": b""})
        assert await subject.store.delete(["folder/missing", "folder/key", "other/key"]) == {}
        assert await subject.raw.keys() == ["folder/stays"]

    async def test_a_folder_is_no_object_to_be_deleted(self, subject: StoreSubject) -> None:
        await subject.raw.put("folder/deep/key", b"")
        assert await subject.store.delete(["folder/deep", "folder"]) == {}
        assert await subject.raw.keys() == ["folder/deep/key"]

    async def test_deleting_nothing_does_nothing(self, subject: StoreSubject) -> None:
        await subject.raw.put("folder/key", b"")
        assert await subject.store.delete([]) == {}
        assert await subject.raw.keys() == ["folder/key"]

    async def test_odd_keys_are_deleted_together_with_plain_ones(
        self, subject: StoreSubject
    ) -> None:
        keys = ["folder/a.json", *ODD_KEYS, "folder/z.json"]
        await seed(subject.raw, dict.fromkeys(keys, b"body"))
        assert await subject.store.delete(keys) == {}
        assert await subject.raw.keys() == []

    async def test_a_thousand_objects_are_deleted_at_once(self, subject: StoreSubject) -> None:
        # Most are missing, which is quicker to set up and as much to delete.
        await seed(subject.raw, {f"folder/{n}": b"" for n in range(0, PAGE_SIZE, 100)})
        assert await subject.store.delete([f"folder/{n}" for n in range(PAGE_SIZE)]) == {}
        assert await subject.raw.keys() == []


async def scanned(
    subject: StoreSubject,
    prefix: str,
    *,
    start_after: str | None = None,
    page_size: int = PAGE_SIZE,
) -> list[str]:
    """All keys of a scan, whose pages are of the right size and have each key once."""
    keys: list[str] = []
    scan = subject.store.scan(prefix, start_after=start_after, page_size=page_size)
    async with aclosing(scan) as pages:
        async for page in pages:
            assert len(page) <= page_size
            assert len(page) == len(set(page))
            # Now and not at the end: a scan that goes in circles has none.
            assert not set(page).intersection(keys)
            keys += page
    return keys


def only_winner(results: list[Any]) -> int:
    """The place of the one result that is no failed condition, among as many attempts."""
    assert [type(result) for result in results].count(PreconditionFailedError) == len(results) - 1
    [winner] = (n for n, result in enumerate(results) if isinstance(result, Version))
    return winner
