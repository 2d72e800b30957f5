"""The fast path: capture a request from aiobotocore once, then replay it.

A call of the client resolves endpoints, builds parameters, headers and a signing key, and parses
much that nobody uses, each time anew. For the four requests that a store makes all day, only the
key, the body, a few headers and the signature change. So one request of each kind goes through the
client, and is captured (`capture`). It is the template (`template`) for those that follow, which
are signed here (`signing`) and sent on the client's own connections (`replay`, `http`).

After an unexpected result, be it a redirect, a broken connection or an unusual response, the next
call takes the slow path. After several in a row the fast path is not used for a while
(`circuit_breaker`). If the client must not be bypassed (`internals`), every call takes the slow
path.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import quote

from snapstore.stores.base import DamagedResponseError, StoredObject, Version
from snapstore.stores.capabilities import ObjectDetails, ObjectLock, ObjectVersion
from snapstore.stores.deadline import Deadline
from snapstore.stores.readback import metadata_of_caller, version_of
from snapstore.stores.s3 import xml
from snapstore.stores.s3.botocore_errors import raise_if_error
from snapstore.stores.s3.bounds import read_bounded
from snapstore.stores.s3.capture import CapturedTemplates
from snapstore.stores.s3.conditions import S3Write
from snapstore.stores.s3.http import LARGE, Response
from snapstore.stores.s3.replay import Replay
from snapstore.stores.s3.requests import (
    CRC32,
    Page,
    content_md5,
    crc32,
    etag_of,
    read_object,
    too_large,
)
from snapstore.stores.s3.slow_path import SlowPath
from snapstore.stores.s3.template import META

__all__ = ["FastPath"]

T = TypeVar("T")

_YIELD: Final = 1e-6
"""Seconds of sleep that let other tasks run, timers included: those wait for more than 0."""


class FastPath:
    """The requests of a store, replayed where that is possible.

    Args:
        client: An entered aiobotocore client.
        bucket: The bucket.
        slow: The slow path, for everything else.
        timeout: Seconds after which callers give up; `None` if that is not known.
    """

    def __init__(self, client: Any, bucket: str, slow: SlowPath, *, timeout: float | None) -> None:
        self._bucket = bucket
        self._slow = slow
        self._templates = CapturedTemplates(client, bucket, timeout=timeout)
        self._replay = Replay(self._templates, bucket)

    @property
    def disabled(self) -> str | None:
        """Why all requests take the slow path on this client; `None` if they need not."""
        return self._templates.disabled

    @property
    def is_suspended(self) -> bool:
        """Whether requests take the slow path for a while, after too many failures."""
        return self._replay.breaker.is_open

    async def prime(self) -> None:
        """Capture all templates by dry runs, so that the first requests are fast as well."""
        await self._templates.prime(self._slow)

    def close(self) -> None:
        """See `Requests.close`."""
        self._slow.close()

    async def get(self, key: str, max_bytes: int) -> StoredObject:
        """See `Requests.get`."""

        async def read(response: Response) -> StoredObject:
            if response.status == 206:
                raise DamagedResponseError(
                    f"GetObject of {key}: the response is a part of the object"
                )
            etag = etag_of(response.headers, "GetObject", key)
            length = response.content_length
            if length is not None and length > max_bytes:
                raise too_large(self._bucket, key, length, max_bytes)
            Deadline.current().allow(length or 0)
            data = await read_object(response.content, self._bucket, key, length, max_bytes)
            if len(data) >= LARGE:
                # Joining it took milliseconds, and the checksum will, too.
                await asyncio.sleep(_YIELD)
            self._templates.internals.verify(data, response.headers)
            metadata = _metadata(response)
            return StoredObject(data, version_of(etag, metadata), metadata_of_caller(metadata))

        found = await self._replay.request("GetObject", "GET", read, key=key)
        if found is None:
            return await self._templates.capture("GetObject", key, self._slow.get(key, max_bytes))
        return found

    async def head(self, key: str) -> Version:
        """See `Requests.head`. It is rare, and always slow."""
        return await self._slow.head(key)

    async def metadata_of(self, key: str) -> tuple[Mapping[str, str], Version]:
        """See `Requests.metadata_of`. It is rare, and always slow."""
        return await self._slow.metadata_of(key)

    async def put(self, key: str, data: bytes, write: S3Write) -> Version:
        """See `Requests.put`."""
        headers = {META + name: value for name, value in write.metadata.items()}
        if self._slow.sends_checksum:
            headers[CRC32] = crc32(data)
        if write.precondition is not None:
            name, value = write.precondition
            headers[name] = value

        async def read(response: Response) -> Version:
            raise_if_error(response, "PutObject", await read_bounded(response))
            return write.version(etag_of(response.headers, "PutObject", key))

        version = await self._replay.request(
            "PutObject", "PUT", read, key=key, headers=headers, body=data
        )
        if version is None:
            return await self._templates.capture("PutObject", key, self._slow.put(key, data, write))
        return version

    async def list(
        self, prefix: str, page_size: int, start_after: str | None, token: str | None
    ) -> Page[str, str]:
        """See `Requests.list`. The keys are taken out of the XML as it comes."""
        return await self._list(
            _list_query(prefix, page_size, start_after, token),
            xml.read_page,
            partial(xml.parse_page, prefix=prefix),
            partial(self._slow.list, prefix, page_size, start_after, token),
        )

    async def list_details(
        self, prefix: str, page_size: int, start_after: str | None, token: str | None
    ) -> Page[ObjectDetails, str]:
        """See `Requests.list_details`."""
        return await self._list(
            _list_query(prefix, page_size, start_after, token),
            xml.read_details,
            partial(xml.parse_details, prefix=prefix),
            partial(self._slow.list_details, prefix, page_size, start_after, token),
        )

    async def list_prefixes(
        self,
        prefix: str,
        delimiter: str,
        page_size: int,
        start_after: str | None,
        token: str | None,
    ) -> Page[tuple[str, bool], str]:
        """See `Requests.list_prefixes`. It is rare, and always slow."""
        return await self._slow.list_prefixes(prefix, delimiter, page_size, start_after, token)

    async def _list(
        self,
        query: str,
        read_usual: Callable[[bytes], Page[T, str] | None],
        parse: Callable[[bytes], Page[T, str]],
        slow: Callable[[], Awaitable[Page[T, str]]],
    ) -> Page[T, str]:
        """Fetch a page.

        Args:
            query: The query of the request.
            read_usual: Reads a document of the usual shape.
            parse: Reads a document of any shape.
            slow: Makes the slow call.
        """

        async def read(response: Response) -> Page[T, str]:
            body = await read_bounded(response)
            page = read_usual(body)
            if page is None:
                raise_if_error(response, "ListObjectsV2", body)
                page = parse(body)
            return page

        page = await self._replay.request("ListObjectsV2", "GET", read, query=query)
        if page is None:
            return await self._templates.capture("ListObjectsV2", "", slow())
        return page

    async def delete(self, keys: Sequence[str]) -> dict[str, str]:
        """See `Requests.delete`."""

        async def read(response: Response) -> dict[str, str]:
            xml_body = await read_bounded(response)
            results = xml.read_deleted(xml_body, keys)
            if results is None:
                raise_if_error(response, "DeleteObjects", xml_body)
                results = xml.parse_deleted(xml_body, keys)
            return results

        body = xml.delete_body(keys)
        headers = {CRC32: crc32(body), "content-md5": content_md5(body)}
        results = await self._replay.request(
            "DeleteObjects", "POST", read, query="delete=", headers=headers, body=body
        )
        if results is None:
            return await self._templates.capture("DeleteObjects", "", self._slow.delete(keys))
        return results

    async def delete_one(
        self,
        key: str,
        condition: tuple[str, str] | None = None,
        *,
        version_id: str | None = None,
        bypass_governance: bool = False,
    ) -> None:
        """See `Requests.delete_one`. It is rare, and always slow."""
        await self._slow.delete_one(
            key, condition, version_id=version_id, bypass_governance=bypass_governance
        )

    async def copy(self, source: str, key: str, write: S3Write) -> Version:
        """See `Requests.copy`. It is rare, and always slow."""
        return await self._slow.copy(source, key, write)

    async def list_versions(
        self, prefix: str, page_size: int, token: tuple[str, str] | None
    ) -> Page[ObjectVersion, tuple[str, str]]:
        """See `Requests.list_versions`. It is rare, and always slow."""
        return await self._slow.list_versions(prefix, page_size, token)

    async def delete_versions(
        self, versions: Sequence[tuple[str, str]], *, bypass_governance: bool = False
    ) -> dict[tuple[str, str], str]:
        """See `Requests.delete_versions`. It is rare, and always slow."""
        return await self._slow.delete_versions(versions, bypass_governance=bypass_governance)

    async def lock_of(self, key: str, version_id: str) -> ObjectLock | None:
        """See `Requests.lock_of`. It is rare, and always slow."""
        return await self._slow.lock_of(key, version_id)

    async def needs_mfa_to_delete(self) -> bool:
        """See `Requests.needs_mfa_to_delete`. It is rare, and always slow."""
        return await self._slow.needs_mfa_to_delete()


def _list_query(prefix: str, page_size: int, start_after: str | None, token: str | None) -> str:
    position = {"start-after": start_after} if token is None else {"continuation-token": token}
    wanted = {
        "encoding-type": "url",
        "list-type": "2",
        "max-keys": str(page_size),
        "prefix": prefix,
        **position,
    }
    return "&".join(
        f"{name}={quote(value, safe='-_.~')}"
        for name, value in sorted(wanted.items())
        if value is not None
    )


def _metadata(response: Response) -> dict[str, str]:
    start = len(META)
    return {
        name[start:].lower(): value
        for name, value in response.headers.items()
        if name[:start].lower() == META
    }
