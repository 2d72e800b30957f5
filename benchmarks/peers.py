"""Who is measured: snapstore, and what else one could save snapshots with.

All of them run in this process but the TypeScript SDK, see `node.py`. The peers have no types, and
those that are not installed for the type checkers are imported by name.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import ssl
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import msgspec
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from benchmarks.measure import Block, Operation, measure_block
from benchmarks.stub import BUCKET, REGION
from benchmarks.workload import Workload
from snapstore import S3Storage, SnapshotLocation
from snapstore.encoding.envelope import decode_snapshot, encode_snapshot

AGENT = "weather"
POOL = 256
"""Connections that each may hold: as many as are ever used at once."""

MAX_BYTES = 64 * 2**20
CONTENT_TYPE = "application/json"
TIMEOUT = 600


class Peer(ABC):
    """A way to save and load snapshots, measured in this process.

    Args:
        name: What the tables call it.
        endpoint: Where S3 is.
        certificate: The file of the certificate to trust.

    Attributes:
        prefix: What the keys of its objects begin with.
    """

    def __init__(self, name: str, endpoint: str, certificate: Path) -> None:
        self.name = name
        self.endpoint = endpoint
        self.certificate = certificate
        self.prefix = "".join(letter if letter.isalnum() else "-" for letter in name)

    @abstractmethod
    async def start(self, stack: AsyncExitStack) -> None:
        """Open it; the stack closes it."""

    def key(self, slot: int) -> str:
        """The key that slot number `slot` saves to."""
        return f"{self.prefix}/session-{slot}/scopes/agent/{AGENT}/snapshots/snapshot_latest.json"

    @abstractmethod
    async def save(self, slot: int, workload: Workload) -> None:
        """Save a snapshot as the latest one of a slot."""

    @abstractmethod
    async def load(self, slot: int) -> Any:
        """Load the latest snapshot of a slot, as it has snapshots."""

    @abstractmethod
    def content(self, loaded: Any) -> Any:
        """What was loaded, as `Workload.content`."""

    async def block(
        self, operation: Operation, workload: Workload, count: int, concurrency: int
    ) -> Block:
        """Save or load `count` times, each slot one after the other, and measure it."""
        call: Callable[[int], Any] = (
            partial(self.save, workload=workload) if operation == "save" else self.load
        )
        return await measure_block(call, count, concurrency)

    async def load_content(self, workload: Workload) -> Any:  # noqa: ARG002 -- node needs it
        """What slot 0 holds, as it loads it."""
        return self.content(await self.load(0))


class Botocore(Peer):
    """aiobotocore and msgspec, as one would write it: nothing is checked."""

    client: Any

    async def start(self, stack: AsyncExitStack) -> None:
        """See `Peer.start`."""
        context = get_session().create_client(
            "s3",
            region_name=REGION,
            endpoint_url=self.endpoint,
            config=AioConfig(max_pool_connections=POOL),
        )
        self.client = await stack.enter_async_context(context)

    async def save(self, slot: int, workload: Workload) -> None:
        """See `Peer.save`."""
        await self.client.put_object(
            Bucket=BUCKET,
            Key=self.key(slot),
            Body=msgspec.json.encode(workload.document),
            ContentType=CONTENT_TYPE,
        )

    async def load(self, slot: int) -> Any:
        """See `Peer.load`."""
        response = await self.client.get_object(Bucket=BUCKET, Key=self.key(slot))
        async with response["Body"] as body:
            return msgspec.json.decode(await body.read())

    def content(self, loaded: Any) -> Any:
        """See `Peer.content`."""
        return {"data": loaded["data"], "appData": loaded["appData"]}

    async def list_keys(self, prefix: str) -> list[str]:
        """List by the paginator."""
        paginator = self.client.get_paginator("list_objects_v2")
        keys: list[str] = []
        async for page in paginator.paginate(Bucket=BUCKET, Prefix=prefix):
            keys += [found["Key"] for found in page.get("Contents", ())]
        return keys


class TunedBotocore(Botocore):
    """The same, with all that its public interface offers to make it faster."""

    async def start(self, stack: AsyncExitStack) -> None:
        """See `Peer.start`."""
        session = get_session()
        session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=str)
        s3 = {"payload_signing_enabled": False} if self.endpoint.startswith("https") else {}
        config = AioConfig(max_pool_connections=POOL, user_agent="bench", s3=s3)
        context = session.create_client(
            "s3", region_name=REGION, endpoint_url=self.endpoint, config=config
        )
        self.client = await stack.enter_async_context(context)
        handlers = importlib.import_module("botocore.handlers")
        self.client.meta.events.unregister("before-call.s3", handlers.add_expect_header)

    async def save(self, slot: int, workload: Workload) -> None:
        """See `Peer.save`."""
        data = msgspec.json.encode(workload.document)
        await self.client.put_object(
            Bucket=BUCKET,
            Key=self.key(slot),
            Body=data,
            ContentType=CONTENT_TYPE,
            ChecksumCRC32=_crc32(data),
        )


class WithOurCodec(Peer):
    """A peer that moves bytes, with snapstore's codec and its strictness."""

    async def save(self, slot: int, workload: Workload) -> None:
        """See `Peer.save`."""
        await self.put(self.key(slot), encode_snapshot(workload.snapshot, max_bytes=MAX_BYTES))

    async def load(self, slot: int) -> Any:
        """See `Peer.load`."""
        key = self.key(slot)
        return decode_snapshot(await self.get(key), key=key)

    def content(self, loaded: Any) -> Any:
        """See `Peer.content`."""
        return {"data": loaded.data, "appData": loaded.app_data}

    @abstractmethod
    async def put(self, key: str, data: bytes) -> None:
        """Write an object."""

    @abstractmethod
    async def get(self, key: str) -> bytes:
        """Read an object."""


class BareAiohttp(WithOurCodec):
    """The floor: requests of aiohttp that nobody signs, with a CRC-32 of the body."""

    session: aiohttp.ClientSession

    async def start(self, stack: AsyncExitStack) -> None:
        """See `Peer.start`."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        connector = aiohttp.TCPConnector(limit=POOL, ssl=context)
        session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=TIMEOUT),
        )
        self.session = await stack.enter_async_context(session)

    async def put(self, key: str, data: bytes) -> None:
        """See `WithOurCodec.put`."""
        headers = {"Content-Type": CONTENT_TYPE, "x-amz-checksum-crc32": _crc32(data)}
        url = f"{self.endpoint}/{BUCKET}/{key}"
        async with self.session.put(url, data=data, headers=headers) as response:
            response.raise_for_status()

    async def get(self, key: str) -> bytes:
        """See `WithOurCodec.get`."""
        async with self.session.get(f"{self.endpoint}/{BUCKET}/{key}") as response:
            response.raise_for_status()
            return await response.read()


class Obstore(WithOurCodec):
    """obstore (Rust). Its checksum of the body is the signature's SHA-256."""

    async def start(self, stack: AsyncExitStack) -> None:  # noqa: ARG002 -- closes by itself
        """See `Peer.start`."""
        self._api: Any = importlib.import_module("obstore")
        stores: Any = importlib.import_module("obstore.store")
        self.store = stores.S3Store(
            BUCKET,
            region=REGION,
            endpoint=self.endpoint,
            client_options={
                "allow_http": True,
                "root_certificate": self.certificate.read_bytes(),
                "timeout": f"{TIMEOUT}s",
            },
        )
        self._attributes = {"Content-Type": CONTENT_TYPE}

    async def put(self, key: str, data: bytes) -> None:
        """See `WithOurCodec.put`."""
        # In parts it would be several requests.
        await self._api.put_async(
            self.store, key, data, attributes=self._attributes, use_multipart=False
        )

    async def get(self, key: str) -> bytes:
        """See `WithOurCodec.get`."""
        result = await self._api.get_async(self.store, key)
        body = await result.bytes_async()
        return bytes(body.to_bytes())


class StrandsPython(Peer):
    """The Python SDK: `SnapshotSessionManager` over its `S3Storage`, which is boto3 in threads.

    An agent costs nothing here: it hands over a snapshot that is ready, and takes one. The threads
    are those of asyncio's own executor, as the SDK has it; as many threads as there are operations
    at once cost it more.
    """

    async def start(self, stack: AsyncExitStack) -> None:
        """See `Peer.start`."""
        boto3: Any = importlib.import_module("boto3")
        config: Any = importlib.import_module("botocore.config")
        storage: Any = importlib.import_module("strands.storage")
        session: Any = importlib.import_module("strands.session.snapshot_session_manager")
        self._snapshots: Any = importlib.import_module("strands.types._snapshot")
        boto_session = boto3.Session(region_name=REGION)
        # It takes no endpoint, but a session of the caller's.
        sessions = SimpleNamespace(client=partial(boto_session.client, endpoint_url=self.endpoint))
        settings = config.Config(max_pool_connections=POOL)
        self.storage = storage.S3Storage(
            BUCKET, prefix=self.prefix, boto_session=sessions, boto_client_config=settings
        )
        self._manager = session.SnapshotSessionManager
        self._managers: dict[int, Any] = {}
        self._saved: dict[int, Any] = {}
        # The SDK makes its client at first use, on the event loop.
        stack.callback((await asyncio.to_thread(self.storage._get_client)).close)  # noqa: SLF001

    def key(self, slot: int) -> str:
        """See `Peer.key`."""
        session = f"{self.prefix}/session/session-{slot}"
        return f"{session}/scopes/agent/{AGENT}/snapshots/snapshot_latest.json"

    def manager(self, session_id: str) -> Any:
        """The manager of a session."""
        return self._manager(session_id, storage=self.storage)

    async def save(self, slot: int, workload: Workload) -> None:
        """See `Peer.save`."""
        snapshot = self._saved.get(id(workload))
        if snapshot is None:
            ours = workload.snapshot
            snapshot = self._saved[id(workload)] = self._snapshots.Snapshot(
                ours.scope, ours.schema_version, ours.data, ours.app_data, ours.created_at
            )
        agent = SimpleNamespace(
            agent_id=AGENT, context_manager=None, take_snapshot=lambda **_: snapshot
        )
        await self._of(slot).save_snapshot(agent, is_latest=True)

    async def load(self, slot: int) -> Any:
        """See `Peer.load`."""
        loaded: list[Any] = []
        agent = SimpleNamespace(agent_id=AGENT, context_manager=None, load_snapshot=loaded.append)
        await self._of(slot).restore_snapshot(agent)
        return loaded[0]

    def content(self, loaded: Any) -> Any:
        """See `Peer.content`."""
        return {"data": loaded.data, "appData": loaded.app_data}

    def _of(self, slot: int) -> Any:
        if slot not in self._managers:
            self._managers[slot] = self.manager(f"session-{slot}")
        return self._managers[slot]


class Snapstore(Peer):
    """snapstore's `S3Storage`, with a client of its own.

    Args:
        name: What the tables call it.
        endpoint: Where S3 is.
        certificate: The file of the certificate to trust.
        direct: Whether the fast path may be used.
    """

    def __init__(self, name: str, endpoint: str, certificate: Path, *, direct: bool) -> None:
        super().__init__(name, endpoint, certificate)
        self.storage = S3Storage(
            BUCKET,
            prefix=self.prefix,
            region=REGION,
            endpoint_url=endpoint,
            max_concurrency=POOL,
            direct=direct,
        )
        self.locations = [SnapshotLocation.agent(f"session-{slot}", AGENT) for slot in range(POOL)]

    async def start(self, stack: AsyncExitStack) -> None:
        """See `Peer.start`."""
        await stack.enter_async_context(self.storage)

    async def save(self, slot: int, workload: Workload) -> None:
        """See `Peer.save`."""
        await self.storage.save_snapshot(
            location=self.locations[slot], snapshot=workload.snapshot, is_latest=True
        )

    async def load(self, slot: int) -> Any:
        """See `Peer.load`."""
        return await self.storage.load_snapshot(location=self.locations[slot])

    def content(self, loaded: Any) -> Any:
        """See `Peer.content`."""
        return {"data": loaded.data, "appData": loaded.app_data}


def _crc32(data: bytes) -> str:
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
