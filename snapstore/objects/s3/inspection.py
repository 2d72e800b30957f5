"""What can be found out about a bucket and a client beyond what an object store shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aiobotocore.httpsession import AIOHTTPSession
from botocore.exceptions import ClientError

from snapstore.objects.base import Finding
from snapstore.objects.s3.client import HTTPSession
from snapstore.objects.s3.direct import DirectRequests

__all__ = ["OF_BUCKET", "of_bucket", "of_client", "of_direct_path"]

OF_BUCKET: Final = ("versioning", "encryption")
"""What `of_bucket` finds out about."""

_BODY: Final = b'{"snapstore check":"inspected"}'


async def of_bucket(
    client: Any, written: Mapping[str, str], encryption: Mapping[str, str]
) -> list[Finding]:
    """Look at what the server says to a write, and remove every version of what was written.

    Args:
        client: The client.
        written: The bucket and the key to write, as parameters of a request.
        encryption: What is asked for with every write, as parameters of a request.

    Raises:
        ClientError: The server refuses to write or to delete.
    """
    reply = await client.put_object(Body=_BODY, **written, **encryption)
    return [await _versioning(client, written, reply), _encryption(reply, encryption)]


async def _versioning(client: Any, written: Mapping[str, str], reply: Mapping[str, Any]) -> Finding:
    versions = [reply.get("VersionId")]
    words = "the bucket is not versioned: what is deleted is gone"
    try:
        versions.append((await client.delete_object(**written)).get("VersionId"))
    except ClientError as error:
        words += f"; but {written['Key']} stays ({error.response.get('Error', {}).get('Code')})"
    if not any(versions):
        return Finding("versioning", "ok", words)
    words = (
        "the bucket is versioned: what is deleted or overwritten stays as a version, until a "
        "lifecycle rule for noncurrent versions removes it"
    )
    try:
        for version in filter(None, versions):
            await client.delete_object(VersionId=version, **written)
        folder = written["Key"].rpartition("/")[0]
        pages = client.get_paginator("list_object_versions").paginate(
            **{name: value for name, value in written.items() if name != "Key"}, Prefix=f"{folder}/"
        )
        async for page in pages:
            for found in [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]:
                which = {"Key": found["Key"], "VersionId": found["VersionId"]}
                await client.delete_object(**{**written, **which})
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code")
        words += f"; those of this check stay under {written['Key']} ({code})"
    return Finding("versioning", "warning", words)


def _encryption(reply: Mapping[str, Any], asked: Mapping[str, str]) -> Finding:
    got = reply.get("ServerSideEncryption")
    wanted = asked.get("ServerSideEncryption")
    if wanted is not None and got != wanted:
        said = "nothing" if got is None else repr(got)
        return Finding(
            "encryption",
            "failed",
            f"{wanted!r} is asked for with every write, and the server confirms {said}",
        )
    key, wanted_key = reply.get("SSEKMSKeyId"), asked.get("SSEKMSKeyId")
    if wanted_key is not None and (key is None or not key.endswith(wanted_key.rpartition("/")[2])):
        words = f"the server confirms {got!r}, and not the key that is asked for with every write"
        return Finding("encryption", "failed", words)
    if got is None:
        words = "none is asked for, and the server does not say that it encrypts what it stores"
        return Finding("encryption", "warning", words)
    return Finding("encryption", "ok", f"the server encrypts what it stores: {got}")


def of_client(client: Any, borrowed: bool, max_concurrency: int) -> Finding:
    """Say which promises are the client's owner's, and which of them are not kept.

    Args:
        client: The client.
        borrowed: Whether it is somebody else's.
        max_concurrency: How many requests there may be at once.
    """
    config = client.meta.config
    lacking: list[str] = []
    session = config.http_session_cls
    if issubclass(session, AIOHTTPSession) and not issubclass(session, HTTPSession):
        lacking.append(
            "it follows redirects, and takes body and session token along: give it "
            "AioConfig(http_session_cls=snapstore.objects.s3.client.HTTPSession)"
        )
    retries = (config.retries or {}).get("mode", "legacy")
    if retries != "standard":
        lacking.append(f"it retries in mode {retries!r}, where 'standard' waits less")
    if config.max_pool_connections < max_concurrency:
        lacking.append(
            f"its pool of {config.max_pool_connections} bounds the requests at once, where "
            f"max_concurrency allows {max_concurrency}"
        )
    whose = "borrowed, so what it does is its owner's" if borrowed else "our own"
    if not lacking:
        words = "follows no redirect, retries in mode 'standard', and has a connection for each"
        return Finding("client", "ok", f"{whose}: it {words} request")
    return Finding("client", "warning", f"{whose}: {'; '.join(lacking)}")


def of_direct_path(direct: DirectRequests | None) -> Finding:
    """Say whether requests are replayed without the client.

    Args:
        direct: Replays them; `None` if that is not wanted.
    """
    if direct is None:
        return Finding("direct path", "ok", "off: direct=False")
    if direct.off is not None:
        return Finding("direct path", "warning", f"off: {direct.off}")
    if direct.rests:
        words = "off for a while: too many replies were not as expected"
        return Finding("direct path", "warning", words)
    return Finding("direct path", "ok", "on: requests cost a fraction of the client's CPU")
