"""Chats that survive their worker: resumed, rewound and deleted, from any number of processes."""

from typing import Annotated, Any

from fastapi import Body, FastAPI, Header, HTTPException, Response

from snapstore import Snapshot, SnapshotLocation, VersionedSnapshot, new_snapshot_id
from snapstore.integrations.fastapi import (
    SnapshotJSONResponse,
    Storage,
    error_handlers,
    storage_lifespan,
)

app = FastAPI(
    lifespan=storage_lifespan,
    exception_handlers=error_handlers,
    default_response_class=SnapshotJSONResponse,
)


async def answer(messages: list[dict[str, str]]) -> str:
    return f"You said: {messages[-1]['text']}"  # your agent's work


def location_of(chat_id: str) -> SnapshotLocation:
    return SnapshotLocation.agent(chat_id, "assistant")


async def load(storage: Storage, chat_id: str, turn: str | None = None) -> VersionedSnapshot:
    read = await storage.load_versioned(location=location_of(chat_id), snapshot_id=turn)
    if read is None:
        raise HTTPException(404, "no such chat" if turn is None else "no such turn")
    return read


@app.post("/chats", status_code=201)
async def start(storage: Storage) -> dict[str, Any]:
    chat_id = new_snapshot_id()
    await storage.save_snapshot(
        location=location_of(chat_id),
        snapshot=Snapshot.new({"messages": []}),
        is_latest=True,
        if_none_match=True,
    )
    return {"chat_id": chat_id}


@app.get("/chats/{chat_id}")
async def resume(chat_id: str, storage: Storage, response: Response) -> dict[str, Any]:
    read = await load(storage, chat_id)
    response.headers["ETag"] = f'"{read.etag}"'
    return read.snapshot.data


@app.post("/chats/{chat_id}/messages")
async def say(
    chat_id: str,
    text: Annotated[str, Body(embed=True)],
    storage: Storage,
    response: Response,
    if_match: Annotated[str | None, Header()] = None,
) -> dict[str, Any]:
    read = await load(storage, chat_id)
    if if_match not in {None, f'"{read.etag}"'}:
        raise HTTPException(409, "the chat has gone on since you read it")
    messages = [*read.snapshot.data["messages"], {"role": "user", "text": text}]
    reply = await answer(messages)
    messages.append({"role": "assistant", "text": reply})
    # The answer took its time: if another message was answered meanwhile, this one is refused
    # with 409. Its turn stays in history, since history is written first.
    read.snapshot.data["messages"] = messages
    saved = await storage.checkpoint(
        location=location_of(chat_id), snapshot=read.snapshot, if_match=read
    )
    response.headers["ETag"] = f'"{saved.etag}"'
    return {"reply": reply, "turn": saved.snapshot_id}


@app.get("/chats/{chat_id}/turns")
async def turns(
    chat_id: str, storage: Storage, limit: int = 10, after: str | None = None
) -> list[str]:
    return await storage.list_snapshot_ids(
        location=location_of(chat_id), limit=limit, start_after=after
    )


@app.post("/chats/{chat_id}/rewind")
async def rewind(
    chat_id: str, turn: Annotated[str, Body(embed=True)], storage: Storage
) -> dict[str, Any]:
    now = await load(storage, chat_id)
    then = await load(storage, chat_id, turn)
    await storage.save_snapshot(
        location=location_of(chat_id), snapshot=then.snapshot, is_latest=True, if_match=now
    )
    return then.snapshot.data


@app.delete("/chats/{chat_id}", status_code=204)
async def delete(chat_id: str, storage: Storage) -> None:
    await storage.delete_session(session_id=chat_id)
