"""How users of the Strands SDK write it, as type checkers see it. Never run."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_type

from strands import Agent
from strands.session import SnapshotSessionManager
from strands.storage.search import KeywordSearchStrategy, StorageSearchResult

from snapstore import SnapshotConflictError
from snapstore.integrations.strands import OnConflict, SnapstoreSessionManager, StrandsStorage
from snapstore.stores import FileObjectStore, ObjectStore, StoredObject

if TYPE_CHECKING:
    from strands.agent import AgentResult
    from strands.storage import Storage


def a_storage_for_all_of_the_sdk() -> Storage:
    return StrandsStorage(
        "my-bucket",
        prefix="agents",
        dialect="typescript",
        region="eu-central-1",
        timeout=10.0,
        server_side_encryption="aws:kms",
        kms_key_id="key",
        search_strategy=KeywordSearchStrategy(),
    )


def options_that_are_no_options() -> None:
    # The ignored errors are the point: a checker that finds none there says so.
    StrandsStorage("my-bucket", regoin="eu-central-1")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    StrandsStorage("my-bucket", region=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    # Its client lives on a thread of its own.
    StrandsStorage("my-bucket", client=None)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def a_storage_over_any_store(store: ObjectStore) -> list[Storage]:
    files = StrandsStorage.over(FileObjectStore("agents"), prefix="a", timeout=None)
    assert_type(files, StrandsStorage)
    assert_type(files.namespace("tenant-7"), StrandsStorage)
    return [files, StrandsStorage.over(store, dialect="typescript", max_snapshot_bytes=1000)]


def the_sdks_own_manager() -> Agent:
    with StrandsStorage("my-bucket") as storage:
        assert_type(storage, StrandsStorage)
        session = SnapshotSessionManager("session-1", storage=storage.namespace("mine"))
        return Agent(session_manager=session, storage=storage)


async def our_manager(storage: StrandsStorage, question: str) -> AgentResult:
    on_conflict: OnConflict = "reload"
    session = SnapstoreSessionManager("session-1", storage=storage, on_conflict=on_conflict)
    agent = Agent(session_manager=session)
    assert_type(await session.list_snapshot_ids(agent, limit=10), list[str])
    assert_type(await session.save_snapshot(agent, is_latest=False), str | None)
    assert_type(await session.restore_snapshot(agent), bool)
    try:
        return await agent.invoke_async(question)
    except SnapshotConflictError:
        return await agent.invoke_async(question)


async def objects(storage: StrandsStorage) -> None:
    await storage.write("notes.md", b"text")
    assert_type(await storage.read("notes.md"), bytes | None)
    assert_type(await storage.read_version("notes.md"), StoredObject | None)
    assert_type(await storage.list("", start_after="a", limit=10), list[str])
    assert_type(await storage.search("text"), list[StorageSearchResult])
    await storage.create("new.md", b"text")
    await storage.delete("notes.md")
    storage.close()
