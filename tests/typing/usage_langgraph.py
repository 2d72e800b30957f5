"""How users of LangGraph write it, as type checkers see it. `nox -s typing` checks it."""

from __future__ import annotations

from typing import assert_type

from langchain_core.runnables import RunnableConfig  # noqa: TC002 -- as users import it
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple

from snapstore import S3Storage
from snapstore.integrations.langgraph import SnapstoreSaver
from snapstore.stores import FileObjectStore, ManagedStore, MemoryObjectStore, S3ObjectStore

config: RunnableConfig = {"configurable": {"thread_id": "chat-1"}}


async def in_asynchronous_code() -> None:
    """The saver is a checkpointer, over any store."""
    async with SnapstoreSaver(S3ObjectStore("my-bucket"), prefix="threads") as saver:
        checkpointer: BaseCheckpointSaver[str] = saver
        assert_type(await checkpointer.aget_tuple(config), CheckpointTuple | None)
        async for found in saver.alist(config, limit=1):
            assert_type(found, CheckpointTuple)
        await saver.aprune(["chat-1"])
    async with S3Storage("my-bucket") as storage:
        SnapstoreSaver(storage.objects, on_conflict="raise", timeout=None)
    async with ManagedStore(MemoryObjectStore()) as store:
        SnapstoreSaver(store, max_bytes=2**20)


def in_synchronous_code() -> None:
    """Every method has a twin."""
    with SnapstoreSaver(FileObjectStore("threads")) as saver:
        assert_type(saver.get_tuple(config), CheckpointTuple | None)
        for found in saver.list(config):
            assert_type(found, CheckpointTuple)
        saver.delete_thread("chat-1")
    SnapstoreSaver(FileObjectStore("threads"), on_conflict="merge")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
