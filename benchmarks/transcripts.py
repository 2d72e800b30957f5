"""Transcripts of the Claude Agent SDK, as its program appends and loads them."""

from __future__ import annotations

import asyncio
import importlib
import json
import secrets
import time
import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Self

from benchmarks.stub import BUCKET
from benchmarks.talk import NAME, Places, Talk


class Claude(Talk):
    """Claude Agent SDK: what its program appends in a turn, and what it asks for to resume.

    Args:
        places: Where the state is kept.
        open_store: Opens the session store.
        compact: Whether `tidy` compacts the transcript.
    """

    def __init__(
        self, places: Places, open_store: Callable[[Places], Any], *, compact: bool = False
    ) -> None:
        super().__init__(places)
        self._open = open_store
        self._compact = compact
        self._session_id = str(uuid.uuid5(uuid.NAMESPACE_URL, NAME))
        self._session = {"project_key": "-home-user-project", "session_id": self._session_id}

    async def start(self, stack: AsyncExitStack) -> None:
        """See `Talk.start`."""
        self._store = await stack.enter_async_context(self._open(self.places))

    async def turn(self, question: str, answer: str) -> None:
        """See `Talk.turn`."""
        said = [self._entry("user", question), self._entry("assistant", answer)]
        await self._store.append(self._session, said)

    async def resume(self) -> list[str]:
        """See `Talk.resume`."""
        entries = await self._store.load(self._session)
        await self._store.list_subkeys(self._session)
        return [entry["message"]["content"][0]["text"] for entry in entries]

    async def tidy(self) -> None:
        """See `Talk.tidy`."""
        if self._compact:
            await self._store.compact(self._session, grace=0)

    def _entry(self, role: str, text: str) -> dict[str, Any]:
        return {
            "type": role,
            "uuid": str(uuid.uuid4()),
            "parentUuid": str(uuid.uuid4()),
            "sessionId": self._session_id,
            "timestamp": "2026-11-28T09:00:00.000Z",
            "cwd": "/home/user/project",
            "gitBranch": "main",
            "version": "2.1.0",
            "message": {"role": role, "content": [{"type": "text", "text": text}]},
        }


class OneObjectAnAppend:
    """A session store as one would write it with boto3, in threads: one object for each append.

    It asks of S3 what the example in the SDK's repository asks: it checks nothing, and keeps no
    summaries.
    """

    def __init__(self, places: Places) -> None:
        self._prefix = places.prefix
        self._last = 0

    async def __aenter__(self) -> Self:
        boto3: Any = importlib.import_module("boto3")
        self._client = await asyncio.to_thread(boto3.client, "s3")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._client.close()

    async def append(self, session: dict[str, str], entries: list[dict[str, Any]]) -> None:
        """Write an object."""
        self._last = max(time.time_ns() // 1_000_000, self._last + 1)
        name = f"part-{self._last:013}-{secrets.token_hex(3)}.jsonl"
        lines = "".join(json.dumps(entry) + "\n" for entry in entries)
        put = partial(self._client.put_object, Bucket=BUCKET, Key=self._place(session) + name)
        await asyncio.to_thread(put, Body=lines.encode())

    async def load(self, session: dict[str, str]) -> list[dict[str, Any]]:
        """List the objects, and read them, 16 at a time."""
        slots = asyncio.Semaphore(16)

        def get(key: str) -> bytes:
            data: bytes = self._client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
            return data

        async def read(key: str) -> list[dict[str, Any]]:
            async with slots:
                data = await asyncio.to_thread(get, key)
            return [json.loads(line) for line in data.splitlines()]

        parts = await asyncio.gather(*map(read, await self._keys(session, Delimiter="/")))
        return [entry for part in parts for entry in part]

    async def list_subkeys(self, session: dict[str, str]) -> list[str]:
        """List the objects once more, for those of subagents: here there are none."""
        place = self._place(session)
        return [key for key in await self._keys(session) if "/" in key.removeprefix(place)]

    def _place(self, session: dict[str, str]) -> str:
        return f"{self._prefix}/{session['project_key']}/{session['session_id']}/"

    async def _keys(self, session: dict[str, str], **options: str) -> list[str]:
        listing = partial(self._client.list_objects_v2, Bucket=BUCKET, **options)
        listed = await asyncio.to_thread(listing, Prefix=self._place(session))
        return sorted(found["Key"] for found in listed.get("Contents", ()))
