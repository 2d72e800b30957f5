# ruff: noqa: D102 -- the name of a test says what it checks
"""The conformance suite for what an object store can do beside `ObjectStore`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

import pytest

from snapstore.errors import UnsupportedOperationError
from snapstore.stores.base import PAGE_SIZE, PreconditionFailedError, StoredObject, Version
from snapstore.stores.capabilities import (
    ConditionalDeleteStore,
    CopyingStore,
    DeferredReadbackStore,
    DelimiterStore,
    DetailedListingStore,
    InspectableStore,
    LocatedStore,
    MetadataStore,
    ObjectVersion,
    SweepableStore,
    VersionedStore,
    capability,
)
from snapstore.testing.object_suite import MIB, ODD_KEYS
from snapstore.testing.subjects import StoreSubject, seed

__all__ = ["StoreCapabilityTests"]

T = TypeVar("T")
Kind = TypeVar("Kind")

SCRATCH: Final = "scratch/conditional-deletes"
CLOCKS: Final = timedelta(days=1)
"""How far a server's clock may be from ours."""

SESSIONS: Final = (
    "in/s-01/scopes/agent/a/1",
    "in/s-01/scopes/agent/a/2",
    "in/s-01/scopes/agent/b/1",
    "in/s-02/scopes/agent/a/1",
    "in/s-02/context/1",
    "in/s-03/context/scopes",
    "in/s-04/scopes/1",
    "in/s-05/nested/s-01/scopes/1",
    "in/s-06/scopes/scopes/1",
    "in/s-07",
    "in/t-01/scopes/1",
)


class StoreCapabilityTests:
    """Holds a store to the contract of each capability that it claims.

    A test of a capability that `snapstore.stores.capability` does not find in the store is skipped.
    Whether a store claims what it should is for a test of its own.

    Subclass it with a fixture `subject`, as `ObjectStoreTests`; one class may be of both suites.
    """

    # Metadata

    async def test_metadata_is_read_with_the_object(self, subject: StoreSubject) -> None:
        store = claimed(subject, MetadataStore)
        await subject.raw.put("a/by-another", b"body")
        version = await store.put_with_metadata("a/key", b"body", {"author": "me", "n": "1 2"})
        stored = await subject.store.get("a/key", max_bytes=MIB)
        assert stored == StoredObject(b"body", version, {"author": "me", "n": "1 2"})
        other = await subject.store.get("a/by-another", max_bytes=MIB)
        assert other is not None
        assert other.metadata == {}

    async def test_metadata_is_replaced_with_the_object(self, subject: StoreSubject) -> None:
        store = claimed(subject, MetadataStore)
        await store.put_with_metadata("a/key", b"body", {"author": "me", "title": "x"})
        await store.put_with_metadata("a/key", lambda: b"made", {"author": "you"})
        stored = await subject.store.get("a/key", max_bytes=MIB)
        assert stored is not None
        assert (stored.data, stored.metadata) == (b"made", {"author": "you"})
        await subject.store.put("a/key", b"plain")
        stored = await subject.store.get("a/key", max_bytes=MIB)
        assert stored is not None
        assert stored.metadata == {}

    async def test_a_put_with_metadata_keeps_its_conditions(self, subject: StoreSubject) -> None:
        store = claimed(subject, MetadataStore)
        version = await store.put_with_metadata("a/key", b"one", {"n": "1"}, if_none_match=True)
        with pytest.raises(PreconditionFailedError):
            await store.put_with_metadata("a/key", b"two", {"n": "2"}, if_none_match=True)
        newer = await store.put_with_metadata("a/key", b"three", {"n": "3"}, if_match=version)
        with pytest.raises(PreconditionFailedError):
            await store.put_with_metadata("a/key", b"four", {"n": "4"}, if_match=version)
        stored = await subject.store.get("a/key", max_bytes=MIB)
        assert stored == StoredObject(b"three", newer, {"n": "3"})

    # Details

    async def test_details_are_those_of_the_objects(self, subject: StoreSubject) -> None:
        store = claimed(subject, DetailedListingStore)
        bodies = {f"a/{size}": b"x" * size for size in (0, 1, 500)}
        await seed(subject.raw, {**bodies, "b/1": b"beside"})
        found = await flat(store.scan_details("a/"))
        assert {details.key: details.size for details in found} == {
            key: len(body) for key, body in bodies.items()
        }
        for details in found:
            assert details.modified.utcoffset() == timedelta(0)
            assert abs(datetime.now(UTC) - details.modified) < CLOCKS
            stored = await subject.store.get(details.key, max_bytes=MIB)
            assert stored is not None
            assert details.etag in (None, stored.version.etag)

    async def test_details_are_those_of_the_last_put(self, subject: StoreSubject) -> None:
        store = claimed(subject, DetailedListingStore)
        await subject.store.put("a/key", b"first")
        [before] = await flat(store.scan_details("a/"))
        version = await subject.store.put("a/key", b"the second one")
        [after] = await flat(store.scan_details("a/"))
        assert after.size == len(b"the second one")
        assert after.modified >= before.modified
        assert after.etag in (None, version.etag)

    async def test_details_come_as_keys_do(self, subject: StoreSubject) -> None:
        store = claimed(subject, DetailedListingStore)
        keys = ["a/1", "a/2", "a/b/1", "a/b-c/1", "a/z", "ab/1", "b"]
        await seed(subject.raw, dict.fromkeys(keys, b"body"))
        for prefix in ("", "a", "a/", "a/b", "c"):
            for page_size in (1, 2, 3, 10):
                expected = await pages_of(subject.store.scan(prefix, page_size=page_size))
                found = await pages_of(store.scan_details(prefix, page_size=page_size))
                assert [[details.key for details in page] for page in found] == expected
        after = await flat(store.scan_details("a/", start_after="a/1"))
        assert [details.key for details in after] == await flat(
            subject.store.scan("a/", start_after="a/1")
        )

    async def test_details_of_any_key(self, subject: StoreSubject) -> None:
        store = claimed(subject, DetailedListingStore)
        async with seeded(subject, {key: b"x" * n for n, key in enumerate(ODD_KEYS)}):
            found = await flat(store.scan_details("folder/"))
        assert {details.key: details.size for details in found} == {
            key: n for n, key in enumerate(ODD_KEYS)
        }

    # Beginnings

    @pytest.mark.parametrize("delimiter", ["/", "/scopes/", "/s"])
    async def test_beginnings_are_found_once_each(
        self, subject: StoreSubject, delimiter: str
    ) -> None:
        store = claimed(subject, DelimiterStore)
        await seed(subject.raw, dict.fromkeys(SESSIONS, b""))
        with supporting(delimiter):
            for prefix in ("in/", "in/s", "in/s-01/", "in/s-06/scopes/", "in/s-05/nested/", "no/"):
                expected = beginnings(SESSIONS, prefix, delimiter)
                for page_size in (1, 2, 3, PAGE_SIZE):
                    where = f"{prefix=} {page_size=}"
                    pages = await pages_of(
                        store.scan_prefixes(prefix, delimiter=delimiter, page_size=page_size)
                    )
                    assert all(len(page) <= page_size for page in pages), where
                    assert sorted(text for page in pages for text in page) == expected, where
            # Servers that keep directories may list others here.
            found = await flat(store.scan_prefixes("", delimiter=delimiter))
            assert set(found).issuperset(beginnings(SESSIONS, "", delimiter))
            assert len(found) == len(set(found))

    @pytest.mark.parametrize("delimiter", ["/", "/scopes/"])
    async def test_beginnings_start_after_a_key(
        self, subject: StoreSubject, delimiter: str
    ) -> None:
        store = claimed(subject, DelimiterStore)
        await seed(subject.raw, dict.fromkeys(SESSIONS, b""))
        expected = beginnings(SESSIONS, "in/s", delimiter)
        with supporting(delimiter):
            for cursor in (*expected, "in/s-01/scopes/agent/a/1", "in/s-04/scopes/1", "in/s-09/"):
                pages = store.scan_prefixes("in/s", delimiter=delimiter, start_after=cursor)
                assert sorted(await flat(pages)) == [
                    text for text in expected if text > cursor and not cursor.startswith(text)
                ], cursor

    async def test_beginnings_of_any_name(self, subject: StoreSubject) -> None:
        store = claimed(subject, DelimiterStore)
        names = [key.removeprefix("folder/") for key in ODD_KEYS]
        async with seeded(subject, {f"names/{name}/1": b"" for name in names}):
            found = await flat(store.scan_prefixes("names/", delimiter="/"))
        assert sorted(found) == sorted(f"names/{name}/" for name in names)

    async def test_a_beginning_goes_with_its_last_key(self, subject: StoreSubject) -> None:
        store = claimed(subject, DelimiterStore)
        await seed(subject.raw, dict.fromkeys(SESSIONS, b""))
        gone = [key for key in SESSIONS if "/s-01/" in key]
        assert await subject.store.delete(gone) == {}
        with supporting("/scopes/"):
            found = await flat(store.scan_prefixes("in/", delimiter="/scopes/"))
            assert sorted(found) == beginnings(set(SESSIONS) - set(gone), "in/", "/scopes/")

    async def test_an_empty_delimiter_is_refused(self, subject: StoreSubject) -> None:
        store = claimed(subject, DelimiterStore)
        with pytest.raises(ValueError, match="delimiter"):
            await flat(store.scan_prefixes("", delimiter=""))

    # Copies

    async def test_a_copy_has_the_bytes_and_a_life_of_its_own(self, subject: StoreSubject) -> None:
        store = claimed(subject, CopyingStore)
        body = bytes(range(256)) * 40
        await subject.raw.put("a/source", body)
        version = await store.copy("a/source", "b/c/copy")
        assert version is not None
        stored = await subject.store.get("b/c/copy", max_bytes=MIB)
        assert stored == StoredObject(body, version)
        await subject.store.put("a/source", b"changed")
        await subject.store.put("b/c/copy", b"next", if_match=version)
        assert await subject.raw.get("a/source") == b"changed"
        assert await subject.raw.get("b/c/copy") == b"next"

    async def test_a_copy_replaces_what_is_there(self, subject: StoreSubject) -> None:
        store = claimed(subject, CopyingStore)
        await seed(subject.raw, {"a/source": b"new", "a/copy": b"old and longer"})
        version = await store.copy("a/source", "a/copy")
        assert version is not None
        assert await subject.store.get("a/copy", max_bytes=MIB) == StoredObject(b"new", version)
        assert sorted(await subject.raw.keys()) == ["a/copy", "a/source"]

    async def test_a_copy_of_nothing_is_none(self, subject: StoreSubject) -> None:
        store = claimed(subject, CopyingStore)
        await subject.raw.put("a/stays", b"body")
        assert await store.copy("a/missing", "a/stays") is None
        assert await store.copy("a/missing", "a/new") is None
        assert await subject.raw.keys() == ["a/stays"]
        assert await subject.raw.get("a/stays") == b"body"

    async def test_a_copy_has_its_own_metadata(self, subject: StoreSubject) -> None:
        store = claimed(subject, CopyingStore)
        keeps = claimed(subject, MetadataStore)
        await keeps.put_with_metadata("a/source", b"body", {"author": "me", "title": "x"})
        for key in ("a/copy", "a/source"):
            version = await store.copy("a/source", key, metadata={"author": "you"})
            assert version is not None
            stored = await subject.store.get(key, max_bytes=MIB)
            assert stored == StoredObject(b"body", version, {"author": "you"})
        await store.copy("a/source", "a/bare")
        stored = await subject.store.get("a/bare", max_bytes=MIB)
        assert stored is not None
        assert stored.metadata == {}

    async def test_a_copy_is_from_any_key_to_any_key(self, subject: StoreSubject) -> None:
        store = claimed(subject, CopyingStore)
        async with seeded(subject, {key: key.encode() for key in ODD_KEYS}):
            for key in ODD_KEYS:
                assert await store.copy(key, f"copy/{key}") is not None
            for key in ODD_KEYS:
                assert await subject.raw.get(f"copy/{key}") == key.encode()

    # Versions

    async def test_each_object_has_one_current_version(self, subject: StoreSubject) -> None:
        store = claimed(subject, VersionedStore)
        bodies = {"a/1": b"", "a/2+%2F ü": b"two", "a/b/3": b"three", "b/1": b"beside"}
        await seed(subject.raw, bodies)
        await subject.store.put("a/1", b"replaced")
        bodies["a/1"] = b"replaced"
        for prefix in ("", "a/", "a/b", "c"):
            under = {key: len(body) for key, body in bodies.items() if key.startswith(prefix)}
            for page_size in (1, 2, PAGE_SIZE):
                pages = await pages_of(store.scan_versions(prefix, page_size=page_size))
                assert all(len(page) <= page_size for page in pages)
                found = [version for page in pages for version in page]
                current = [version for version in found if version.is_current]
                assert sorted((v.key, v.size) for v in current) == sorted(under.items())
                assert not any(version.is_delete_marker for version in current)
                assert len(ids(found)) == len(found)
                assert all(abs(datetime.now(UTC) - v.modified) < CLOCKS for v in found)

    async def test_only_the_versions_named_are_deleted(self, subject: StoreSubject) -> None:
        store = claimed(subject, VersionedStore)
        await seed(subject.raw, dict.fromkeys(["a/1", "a/2+%2F ü", "a/3"], b"body"))
        named = ids(v for v in await flat(store.scan_versions("a/")) if v.key != "a/3")
        assert await store.delete_versions(sorted(named)) == {}
        assert await subject.raw.keys() == ["a/3"]
        assert {version.key for version in await flat(store.scan_versions(""))} == {"a/3"}
        # They count as deleted.
        assert await store.delete_versions(sorted(named)) == {}
        assert await store.delete_versions([]) == {}
        assert await subject.raw.keys() == ["a/3"]

    # Conditional deletes

    async def test_it_is_known_whether_conditions_are_kept(self, subject: StoreSubject) -> None:
        store = claimed(subject, ConditionalDeleteStore)
        found = await asyncio.gather(*(store.has_conditional_deletes(SCRATCH) for _ in range(3)))
        assert len(set(found)) == 1
        assert await subject.raw.keys() == []
        version = await subject.store.put("a/key", b"body")
        if not found[0]:
            with pytest.raises(UnsupportedOperationError):
                await store.delete_if_match("a/key", version)
            assert await subject.raw.get("a/key") == b"body"

    async def test_a_delete_takes_the_version_of_a_put_and_of_a_read(
        self, subject: StoreSubject
    ) -> None:
        store = await deleting(subject)
        version = await subject.store.put("a/1", b"body")
        await seed(subject.raw, {"a/2": b"by another", "a/3": b"stays"})
        read = await subject.store.get("a/2", max_bytes=MIB)
        assert read is not None
        await store.delete_if_match("a/1", version)
        await store.delete_if_match("a/2", read.version)
        assert await subject.raw.keys() == ["a/3"]

    async def test_another_version_is_not_deleted(self, subject: StoreSubject) -> None:
        store = await deleting(subject)
        version = await subject.store.put("a/key", b"first")
        await subject.raw.put("a/key", b"another's")
        with pytest.raises(PreconditionFailedError) as raised:
            await store.delete_if_match("a/key", version)
        assert raised.value.key == "a/key"
        assert (raised.value.is_missing, raised.value.outcome) == (False, "not applied")
        assert await subject.raw.get("a/key") == b"another's"

    async def test_a_missing_object_is_not_deleted(self, subject: StoreSubject) -> None:
        store = await deleting(subject)
        version = await subject.store.put("a/key", b"body")
        await store.delete_if_match("a/key", version)
        # Some servers don't tell: then it returns.
        try:
            await store.delete_if_match("a/key", version)
        except PreconditionFailedError as error:
            assert error.is_missing  # noqa: PT017 -- it need not be raised
        assert await subject.raw.keys() == []

    async def test_a_version_is_replaced_or_deleted_but_never_both(
        self, subject: StoreSubject
    ) -> None:
        store = await deleting(subject)
        for n in range(3):
            key = f"a/{n}"
            version = await subject.store.put(key, b"first")
            written, deleted = await asyncio.gather(
                subject.store.put(key, b"second", if_match=version),
                store.delete_if_match(key, version),
                return_exceptions=True,
            )
            losers = [end for end in (written, deleted) if isinstance(end, Exception)]
            assert [type(loser) for loser in losers] == [PreconditionFailedError]
            expected = b"second" if isinstance(written, Version) else None
            assert await subject.raw.get(key) == expected

    # The others

    async def test_a_refused_write_is_resolved_by_what_is_read(self, subject: StoreSubject) -> None:
        store = claimed(subject, DeferredReadbackStore)
        version = await store.try_put("a/key", b"first", if_none_match=True)
        assert isinstance(version, Version)
        await subject.store.put("a/key", b"second", if_match=version)
        refused = await store.try_put("a/key", b"third", if_match=version)
        assert not isinstance(refused, Version)
        read = await subject.store.get("a/key", max_bytes=MIB)
        assert read is not None
        assert read.data == b"second"
        with pytest.raises(PreconditionFailedError):
            refused.resolve(read.version)

    async def test_a_place_is_the_same_url_each_time(self, subject: StoreSubject) -> None:
        store = claimed(subject, LocatedStore)
        place = await store.locate()

        assert "://" in place
        assert place.endswith("/")
        assert await store.locate() == place

    async def test_a_sweep_leaves_objects_alone(self, subject: StoreSubject) -> None:
        store = claimed(subject, SweepableStore)
        bodies = {"a/1": b"", "a/b/2": b"two", "b/1": b"beside"}
        await seed(subject.raw, bodies)
        await store.sweep("a/")
        await store.sweep("missing/")
        assert {key: await subject.raw.get(key) for key in await subject.raw.keys()} == bodies

    async def test_an_inspection_leaves_objects_alone(self, subject: StoreSubject) -> None:
        store = claimed(subject, InspectableStore)
        await subject.raw.put("a/1", b"stays")
        findings = await store.inspect("inspection/key.json")
        assert all(finding.check and finding.message for finding in findings)
        assert await subject.raw.keys() == ["a/1"]


def claimed(subject: StoreSubject, kind: Callable[..., Kind]) -> Kind:
    """The store as one that has a capability; skips the test if it does not claim it."""
    store = capability(subject.store, kind)
    if store is None:
        pytest.skip("the store does not claim it")
    return store


async def deleting(subject: StoreSubject) -> ConditionalDeleteStore:
    """The store as one whose deletes keep their conditions; skips the test if they don't."""
    store = claimed(subject, ConditionalDeleteStore)
    if not await store.has_conditional_deletes(SCRATCH):
        pytest.skip("the store says that its server ignores conditions")
    return store


@asynccontextmanager
async def seeded(subject: StoreSubject, objects: Mapping[str, bytes]) -> AsyncIterator[None]:
    """Store objects, and let the store delete all there are: others may not, for odd keys."""
    await seed(subject.raw, objects)
    try:
        yield
    finally:
        assert await subject.store.delete(await subject.raw.keys()) == {}


def supporting(delimiter: str) -> suppress:
    """Let a store not support a delimiter, but for the one that all have."""
    return suppress(*([] if delimiter == "/" else [UnsupportedOperationError]))


def beginnings(keys: Iterable[str], prefix: str, delimiter: str) -> list[str]:
    """What keys begin with, up to the first delimiter after the prefix, ascending."""
    rests = [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]
    heads = {rest.partition(delimiter)[0] for rest in rests if delimiter in rest}
    return sorted(f"{prefix}{head}{delimiter}" for head in heads)


def ids(versions: Iterable[ObjectVersion]) -> set[tuple[str, str]]:
    """What names each version."""
    return {(version.key, version.version_id) for version in versions}


async def pages_of(pages: AsyncGenerator[list[T], None]) -> list[list[T]]:
    """All pages, empty ones left out, at most as many as there can be."""
    found: list[list[T]] = []
    async with aclosing(pages):
        async for page in pages:
            found.append(page)
            assert len(found) <= PAGE_SIZE, "the listing does not end"
    return [page for page in found if page]


async def flat(pages: AsyncGenerator[list[T], None]) -> list[T]:
    """What is on all pages."""
    return [item for page in await pages_of(pages) for item in page]
