"""What a file store can do beside get, put, scan and delete."""

import asyncio
import os
import stat
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime
from random import Random

import pytest

from snapstore import InvalidIdentifierError, StorageError
from snapstore.stores import PreconditionFailedError, Version
from snapstore.stores.capabilities import (
    ConditionalDeleteStore,
    CopyingStore,
    DelimiterStore,
    DetailedListingStore,
    MetadataStore,
    ObjectDetails,
    VersionedStore,
    capability,
)
from snapstore.stores.file.store import FileObjectStore
from snapstore.stores.memory import MemoryObjectStore

MIB = 2**20


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


@pytest.fixture
async def store(root):
    store = FileObjectStore(root)
    await store.open()
    yield store
    await store.aclose()


async def all_of(pages):
    async with aclosing(pages):
        return [item async for page in pages for item in page]


def test_it_claims_what_files_can_do(root) -> None:
    store = FileObjectStore(root)
    can = [DetailedListingStore, DelimiterStore, CopyingStore, ConditionalDeleteStore]
    assert [capability(store, kind) for kind in can] == [store] * len(can)
    assert [capability(store, kind) for kind in (MetadataStore, VersionedStore)] == [None, None]


# Details


async def test_details_are_those_of_the_file_system(store, root) -> None:
    keys = ["a-b", "a/1", "a/b/2", "a/c", "b"]
    for size, key in enumerate(keys):
        await store.put(key, b"x" * size)
        os.utime(root / key, (1_000_000_000.5 + size,) * 2)
    for page_size in range(1, 7):
        async with aclosing(store.scan_details("", page_size=page_size)) as pages:
            found = [page async for page in pages]
        assert [[details.key for details in page] for page in found] == [
            keys[start : start + page_size] for start in range(0, len(keys), page_size)
        ]
    assert await all_of(store.scan_details("a/", start_after="a/1")) == [
        ObjectDetails("a/b/2", 2, datetime(2001, 9, 9, 1, 46, 42, 500_000, tzinfo=UTC), None),
        ObjectDetails("a/c", 3, datetime(2001, 9, 9, 1, 46, 43, 500_000, tzinfo=UTC), None),
    ]


async def test_a_file_that_goes_between_two_pages_has_no_details(store, root) -> None:
    for n in range(4):
        await store.put(f"a/{n}", b"")
    async with aclosing(store.scan_details("", page_size=2)) as pages:
        assert [details.key for details in await anext(pages)] == ["a/0", "a/1"]
        (root / "a" / "2").unlink()
        assert [details.key for details in await anext(pages)] == ["a/3"]
        with pytest.raises(StopAsyncIteration):
            await anext(pages)


async def test_what_is_no_regular_file_has_no_details(store, root) -> None:
    await store.put("a/1", b"one")
    (root / "a" / "2").symlink_to(root / "a" / "1")
    with pytest.raises(StorageError, match=r"a/2 .* symbolic link"):
        await all_of(store.scan_details("a/"))
    (root / "a" / "2").unlink()
    os.mkfifo(root / "a" / "2")
    with pytest.raises(StorageError, match=r"a/2 .* not a regular file"):
        await all_of(store.scan_details("a/"))


# Beginnings


@pytest.mark.parametrize("delimiter", ["/", "/scopes/", "/s", "-", "b", "s/a", "/a/", "ab", "//"])
async def test_beginnings_are_those_of_the_keys(delimiter, store) -> None:
    """Against all keys in memory, which is simple enough to be right."""
    random = Random(delimiter)
    names = ["a", "a-b", "ab", "b", "s", "scopes"]
    everything = MemoryObjectStore()
    directories = set()
    for _ in range(120):
        path = random.choices(names, k=random.randint(1, 4))
        key = "/".join(path)
        starts = {"/".join(path[:n]) for n in range(1, len(path))}
        if key in directories or starts & everything.objects.keys():
            continue  # a file where another key has a directory
        directories |= starts
        await everything.put(key, b"")
        await store.put(key, b"")
    for prefix in ("", "a", "a/", "a/b", "s/scopes/", "none/"):
        whole = await all_of(everything.scan_prefixes(prefix, delimiter=delimiter))
        for page_size in (1, 3, 1000):
            found = store.scan_prefixes(prefix, delimiter=delimiter, page_size=page_size)
            assert await all_of(found) == whole
        for start_after in [*random.sample(sorted(everything.objects), 20), *whole]:
            where = {"delimiter": delimiter, "start_after": start_after}
            assert await all_of(store.scan_prefixes(prefix, **where)) == await all_of(
                everything.scan_prefixes(prefix, **where)
            )


async def test_an_empty_directory_is_no_beginning(store, root) -> None:
    await store.put("a/scopes/b/1", b"")
    (root / "b" / "scopes" / "c").mkdir(parents=True)
    (root / "b" / "scopes" / "c" / ".snapstore-0123").touch()
    assert await all_of(store.scan_prefixes("", delimiter="/scopes/")) == ["a/scopes/"]
    assert await all_of(store.scan_prefixes("", delimiter="/")) == ["a/"]


@pytest.mark.parametrize("delimiter", ["/", "/scopes/"])
async def test_beginnings_are_found_without_the_files_under_them(
    delimiter, store, root, monkeypatch
) -> None:
    sessions, files = 20, 300
    for session in range(sessions):
        history = root / f"s-{session:02}" / "scopes" / "agent" / "x" / "snapshots" / "history"
        history.mkdir(parents=True)
        for n in range(files):
            (history / f"{n}.json").touch()
    read = count_entries(monkeypatch)
    found = await all_of(store.scan_prefixes("", delimiter=delimiter))
    assert found == [f"s-{session:02}{delimiter}" for session in range(sessions)]
    # A directory each: the session, its scopes, and those down to the first file.
    assert len(read) <= sessions * 7


def count_entries(monkeypatch):
    read = []
    scandir = os.scandir

    @contextmanager
    def counting(descriptor):
        with scandir(descriptor) as entries:
            yield (read.append(entry.name) or entry for entry in entries)

    monkeypatch.setattr("snapstore.stores.file.listing.os.scandir", counting)
    return read


async def test_an_empty_delimiter_is_refused(store) -> None:
    for each in (store, MemoryObjectStore()):
        with pytest.raises(ValueError, match="delimiter"):
            await all_of(each.scan_prefixes("", delimiter=""))


# Copies


async def test_a_copy_is_a_file_of_its_own(store, root) -> None:
    version = await store.put("a/1", b"one")
    assert await store.copy("a/1", "b/c/1") == version
    await store.put("a/1", b"two")
    assert (root / "b" / "c" / "1").read_bytes() == b"one"
    assert stat.S_IMODE((root / "b" / "c" / "1").stat().st_mode) == 0o600
    (root / "b" / "c" / "1").chmod(0o640)
    await store.copy("a/1", "b/c/1", metadata={"kept": "nowhere"})
    assert (root / "b" / "c" / "1").read_bytes() == b"two"
    assert stat.S_IMODE((root / "b" / "c" / "1").stat().st_mode) == 0o640
    assert await store.copy("a/1", "a/1") is not None
    assert sorted(path.name for path in root.rglob("*") if path.is_file()) == ["1", "1"]


async def test_a_copy_of_nothing_is_none_and_changes_nothing(store, root) -> None:
    await store.put("b/1", b"one")
    for source in ("a/1", "b", "b/1/c"):
        assert await store.copy(source, "b/1") is None
        assert await store.copy(source, "c/1") is None
    assert (root / "b" / "1").read_bytes() == b"one"
    assert not (root / "c").exists()
    with pytest.raises(InvalidIdentifierError):
        await store.copy("../a", "b/1")


async def test_a_copy_that_fails_says_that_it_was_not_made(store, root, monkeypatch) -> None:
    await store.put("a/1", b"one")

    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("snapstore.stores.file.files.os.fsync", full)
    with pytest.raises(StorageError, match="the disk is full") as caught:
        await store.copy("a/1", "a/2")
    assert (caught.value.operation, caught.value.outcome) == ("copy", "not applied")
    assert [path.name for path in (root / "a").iterdir()] == ["1"]


# Conditional deletes


async def test_of_many_that_delete_a_version_one_does(store, root) -> None:
    version = await store.put("a/1", b"one")
    ends = await asyncio.gather(
        *(store.delete_if_match("a/1", version) for _ in range(8)), return_exceptions=True
    )
    assert ends.count(None) == 1
    refused = [end for end in ends if end is not None]
    assert all(isinstance(end, PreconditionFailedError) and end.is_missing for end in refused)
    assert {end.outcome for end in refused} == {"not applied"}
    assert list(root.iterdir()) == []  # the directory is gone with its last file


async def test_another_version_is_not_deleted(store, root) -> None:
    version = await store.put("a/1", b"one")
    await store.put("a/1", b"two")
    with pytest.raises(PreconditionFailedError) as caught:
        await store.delete_if_match("a/1", version)
    assert not caught.value.is_missing
    assert (caught.value.operation, caught.value.outcome) == ("delete", "not applied")
    assert (root / "a" / "1").read_bytes() == b"two"
    for missing in ("a/2", "b/1", "a/1/2", "a"):
        with pytest.raises(PreconditionFailedError) as caught:
            await store.delete_if_match(missing, version)
        assert caught.value.is_missing
    assert await store.has_conditional_deletes("scratch")
    assert [path.name for path in root.rglob("*")] == ["a", "1"]


async def test_writers_and_deleters_at_once_lose_nothing(store) -> None:
    """Each body is deleted at its version, or replaced at it, and never both."""
    version = await store.put("a/1", b"0")
    deleted = 0
    for n in range(1, 30):
        ends = await asyncio.gather(
            store.put("a/1", b"%d" % n, if_match=version),
            store.delete_if_match("a/1", version),
            return_exceptions=True,
        )
        written, end = ends
        assert isinstance(written, Version) is isinstance(end, PreconditionFailedError)
        if isinstance(written, Version):
            version = written
        else:
            deleted += 1
            version = await store.put("a/1", b"%d" % n, if_none_match=True)
    stored = await store.get("a/1", max_bytes=MIB)
    assert stored is not None
    assert stored.version == version
