"""Chats that survive their worker: resumed, rewound and deleted, from any number of processes."""

from typing import Annotated, Any

from fastapi import Body, FastAPI, Header, HTTPException, Query, Response

from snapstore import (
    Snapshot,
    SnapshotLocation,
    VersionedSnapshot,
    new_snapshot_id,
    snapshot_time,
)
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


PageSize = Annotated[int, Query(ge=1, le=100)]


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


@app.get("/chats")
async def sidebar(
    storage: Storage, limit: PageSize = 20, cursor: str | None = None
) -> dict[str, Any]:
    # Newest first: chat ids are those of `new_snapshot_id`, which sort by time.
    page = await storage.list_sessions(limit=limit, order="created", cursor=cursor)
    chats = [
        {"chat_id": chat.session_id, "updated_at": chat.updated_at, "turns": chat.snapshots}
        for chat in page.sessions
    ]
    return {"chats": chats, "cursor": page.cursor}


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
    chat_id: str, storage: Storage, limit: PageSize = 10, before: str | None = None
) -> list[dict[str, Any]]:
    ids = await storage.list_snapshot_ids(
        location=location_of(chat_id), limit=limit, start_after=before, newest_first=True
    )
    return [{"turn": turn, "at": snapshot_time(turn)} for turn in ids]


@app.post("/chats/{chat_id}/rewind")
async def rewind(
    chat_id: str, turn: Annotated[str, Body(embed=True)], storage: Storage, response: Response
) -> dict[str, Any]:
    now = await load(storage, chat_id)
    saved = await storage.rewind(location=location_of(chat_id), snapshot_id=turn, if_match=now)
    response.headers["ETag"] = f'"{saved.etag}"'
    return (await load(storage, chat_id, turn)).snapshot.data


@app.delete("/chats/{chat_id}", status_code=204)
async def delete(chat_id: str, storage: Storage) -> None:
    await storage.delete_session(session_id=chat_id)
