"""How users of FastAPI write it, as type checkers see it. Never run: `nox -s typing` checks it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, assert_type

from fastapi import FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient
from pydantic_settings import SettingsConfigDict

from snapstore import (
    MemoryStorage,
    ObjectSnapshotStorage,
    S3Storage,
    Snapshot,
    SnapshotConflictError,
    SnapshotLocation,
    SnapstoreError,
)
from snapstore.integrations.fastapi import (
    SnapshotJSONResponse,
    Storage,
    StorageSettings,
    error_handlers,
    get_storage,
    storage_lifespan,
)

app = FastAPI(
    lifespan=storage_lifespan,
    exception_handlers=error_handlers,
    default_response_class=SnapshotJSONResponse,
)
FastAPI(lifespan=lambda app: storage_lifespan(app, storage=S3Storage("chats")))
FastAPI(lifespan=partial(storage_lifespan, storage=MemoryStorage()))

mounted = FastAPI(exception_handlers=error_handlers)
app.mount("/mounted", mounted)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    storage = StorageSettings(bucket="chats", timeout=5).storage()
    assert_type(storage, S3Storage)
    async with storage_lifespan(app, mounted, storage=storage):
        yield {"model": "small"}


async def gone_on(_: Request, error: SnapstoreError) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 412)


FastAPI(lifespan=lifespan, exception_handlers={**error_handlers, SnapshotConflictError: gone_on})
for kind, handler in error_handlers.items():
    app.add_exception_handler(kind, handler)


class ChatSettings(StorageSettings):
    """A user's own settings beside those of the storage."""

    model_config = SettingsConfigDict(env_prefix="CHAT_", env_file=".env")

    model: str = "small"


def settings() -> None:
    assert_type(StorageSettings().bucket, str)
    assert_type(StorageSettings().region, str | None)
    assert_type(ChatSettings(model="large").storage(), S3Storage)


def location_of(chat_id: str) -> SnapshotLocation:
    return SnapshotLocation.agent(chat_id, "assistant")


@app.get("/chats/{chat_id}")
async def resume(chat_id: str, storage: Storage) -> SnapshotJSONResponse:
    assert_type(storage, ObjectSnapshotStorage)
    read = await storage.load_versioned(location=location_of(chat_id))
    if read is None:
        raise HTTPException(404)
    return SnapshotJSONResponse(read.snapshot.data, headers={"ETag": f'"{read.etag}"'})


@app.websocket("/chats/{chat_id}")
async def chat(socket: WebSocket, chat_id: str, storage: Storage) -> None:
    await socket.accept()
    async for text in socket.iter_text():
        snapshot = Snapshot.new({"messages": [text]})
        await storage.checkpoint(location=location_of(chat_id), snapshot=snapshot)


def in_tests() -> None:
    storage = MemoryStorage()
    app.dependency_overrides[get_storage] = lambda: storage
    with TestClient(app) as client:
        client.get("/chats/chat-1")
