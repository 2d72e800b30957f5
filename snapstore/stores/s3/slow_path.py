"""The slow path: one S3 request each, made by the methods of the aiobotocore client.

What comes back is ours; what is raised is still botocore's, for `errors.translate`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote_plus

from snapstore.stores.base import UNCONFIRMED, DamagedResponseError, StoredObject, Version
from snapstore.stores.capabilities import ObjectDetails, ObjectLock, ObjectVersion
from snapstore.stores.deadline import Deadline
from snapstore.stores.readback import metadata_of_caller, version_of
from snapstore.stores.s3.conditions import S3Write
from snapstore.stores.s3.requests import (
    DELETED,
    Page,
    content_md5,
    crc32,
    details_of,
    etag_of,
    invalid_entry,
    keys_of,
    read_object,
    time_of,
)

__all__ = ["SlowPath"]

_CONTENT_TYPE: Final = "application/json"
_HOOK: Final[dict[str, Any]] = {"unique_id": "snapstore-md5", "unique_id_uses_count": True}


class SlowPath:
    """Requests made by a client.

    Args:
        client: An entered aiobotocore client. A hook is registered on it, until `close`.
        bucket: The bucket.
        common: Parameters of each request: `ExpectedBucketOwner`.
        encryption: Parameters of each write: `ServerSideEncryption`, `SSEKMSKeyId`.

    Attributes:
        sends_checksum: Whether a write carries a checksum: the client's setting
            `request_checksum_calculation` is not `"when_required"`.
    """

    def __init__(
        self, client: Any, bucket: str, *, common: Mapping[str, str], encryption: Mapping[str, str]
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._common = {"Bucket": bucket, **common}
        self._encryption = encryption
        calculation = client.meta.config.request_checksum_calculation
        self.sends_checksum: bool = calculation != "when_required"
        client.meta.events.register("before-call.s3.DeleteObjects", _add_content_md5, **_HOOK)

    def close(self) -> None:
        """See `Requests.close`."""
        events = self._client.meta.events
        events.unregister("before-call.s3.DeleteObjects", _add_content_md5, **_HOOK)

    async def get(self, key: str, max_bytes: int) -> StoredObject:
        """See `Requests.get`."""
        reply = await self._client.get_object(Key=key, **self._common)
        async with reply["Body"] as body:
            if reply["ResponseMetadata"]["HTTPStatusCode"] == 206:
                raise DamagedResponseError(
                    f"GetObject of {key}: the response is a part of the object"
                )
            version = _version(reply, "GetObject", key)
            Deadline.current().allow(reply.get("ContentLength", 0))
            length = reply.get("ContentLength")
            data = await read_object(body, self._bucket, key, length, max_bytes)
            return StoredObject(data, version, metadata_of_caller(reply.get("Metadata", {})))

    async def head(self, key: str) -> Version:
        """See `Requests.head`."""
        reply = await self._client.head_object(Key=key, **self._common)
        return _version(reply, "HeadObject", key)

    async def metadata_of(self, key: str) -> Mapping[str, str]:
        """See `Requests.metadata_of`."""
        reply = await self._client.head_object(Key=key, **self._common)
        return metadata_of_caller(reply.get("Metadata", {}))

    async def put(self, key: str, data: bytes, write: S3Write) -> Version:
        """See `Requests.put`."""
        condition: dict[str, str] = {}
        if write.precondition is not None:
            name, value = write.precondition
            condition["IfMatch" if name == "if-match" else "IfNoneMatch"] = value
        # As a header it avoids botocore's chunked trailer, which not every server knows.
        checksum = {"ChecksumCRC32": crc32(data)} if self.sends_checksum else {}
        reply = await self._client.put_object(
            Key=key,
            Body=data,
            ContentType=_CONTENT_TYPE,
            Metadata=write.metadata,
            **checksum,
            **self._common,
            **self._encryption,
            **condition,
        )
        return write.version(etag_of(reply, "PutObject", key))

    async def list(
        self, prefix: str, page_size: int, start_after: str | None, token: str | None
    ) -> Page[str, str]:
        """See `Requests.list`."""
        reply = await self._list(prefix, page_size, start_after, token)
        keys = keys_of([found.get("Key") for found in reply.get("Contents", ())], prefix)
        return Page(keys, *_position(reply))

    async def list_details(
        self, prefix: str, page_size: int, start_after: str | None, token: str | None
    ) -> Page[ObjectDetails, str]:
        """See `Requests.list_details`."""
        reply = await self._list(prefix, page_size, start_after, token)
        details = [details_of(found, prefix) for found in reply.get("Contents", ())]
        return Page(details, *_position(reply))

    async def list_prefixes(
        self,
        prefix: str,
        delimiter: str,
        page_size: int,
        start_after: str | None,
        token: str | None,
    ) -> Page[tuple[str, bool], str]:
        """See `Requests.list_prefixes`."""
        reply = await self._list(prefix, page_size, start_after, token, Delimiter=delimiter)
        prefixes = [found.get("Prefix") for found in reply.get("CommonPrefixes", ())]
        keys = [found.get("Key") for found in reply.get("Contents", ())]
        found = [(text, True) for text in keys_of(prefixes, prefix)]
        found += [(text, False) for text in keys_of(keys, prefix)]
        return Page(found, *_position(reply))

    async def _list(
        self,
        prefix: str,
        page_size: int,
        start_after: str | None,
        token: str | None,
        **more: str,
    ) -> Mapping[str, Any]:
        position = {"StartAfter": start_after} if start_after is not None else {}
        if token is not None:
            position = {"ContinuationToken": token}
        reply: Mapping[str, Any] = await self._client.list_objects_v2(
            Prefix=prefix, MaxKeys=page_size, **self._common, **position, **more
        )
        return reply

    async def delete(self, keys: Sequence[str]) -> dict[str, str]:
        """See `Requests.delete`."""
        wanted = {"Objects": [{"Key": key} for key in keys], "Quiet": False}
        reply = await self._client.delete_objects(Delete=wanted, **self._common)
        results = dict.fromkeys(keys, UNCONFIRMED)
        found = [(deleted.get("Key"), DELETED) for deleted in reply.get("Deleted", ())]
        found += [(error.get("Key"), error.get("Code")) for error in reply.get("Errors", ())]
        return results | {key: code or UNCONFIRMED for key, code in found if key in results}

    async def delete_one(
        self,
        key: str,
        condition: tuple[str, str] | None = None,
        *,
        version_id: str | None = None,
        bypass_governance: bool = False,
    ) -> None:
        """See `Requests.delete_one`."""
        more: dict[str, Any] = {} if condition is None else {"IfMatch": condition[1]}
        if version_id is not None:
            more["VersionId"] = version_id
        if bypass_governance:
            more["BypassGovernanceRetention"] = True
        await self._client.delete_object(Key=key, **self._common, **more)

    async def copy(self, source: str, key: str, write: S3Write) -> Version:
        """See `Requests.copy`."""
        owner = self._common.get("ExpectedBucketOwner")
        reply = await self._client.copy_object(
            Key=key,
            CopySource={"Bucket": self._bucket, "Key": source},
            MetadataDirective="REPLACE",
            Metadata=write.metadata,
            ContentType=_CONTENT_TYPE,
            **self._common,
            **self._encryption,
            **({} if owner is None else {"ExpectedSourceBucketOwner": owner}),
        )
        return write.version(etag_of(reply.get("CopyObjectResult", {}), "CopyObject", key))

    async def list_versions(
        self, prefix: str, page_size: int, token: tuple[str, str] | None
    ) -> Page[ObjectVersion, tuple[str, str]]:
        """See `Requests.list_versions`."""
        key, version_id = token or ("", "")
        markers = {"KeyMarker": key} if key else {}
        if version_id:
            markers["VersionIdMarker"] = version_id
        # Asked for here, so that botocore decodes nothing: Ceph encodes keys, but not the marker.
        reply = await self._client.list_object_versions(
            Prefix=prefix, MaxKeys=page_size, EncodingType="url", **self._common, **markers
        )
        is_encoded = reply.get("EncodingType") == "url"
        items = [
            _object_version(found, prefix, is_encoded=is_encoded, is_delete_marker=is_marker)
            for name, is_marker in (("Versions", False), ("DeleteMarkers", True))
            for found in reply.get(name, ())
        ]
        after: str = reply.get("NextKeyMarker") or ""
        if is_encoded and after != max((item.key for item in items), default=""):
            after = unquote_plus(after)
        following = (after, reply.get("NextVersionIdMarker") or "") if after else None
        return Page(items, reply.get("IsTruncated"), following)

    async def delete_versions(
        self, versions: Sequence[tuple[str, str]], *, bypass_governance: bool = False
    ) -> dict[tuple[str, str], str]:
        """See `Requests.delete_versions`."""
        objects = [{"Key": key, "VersionId": version_id} for key, version_id in versions]
        wanted = {"Objects": objects, "Quiet": False}
        bypass = {"BypassGovernanceRetention": True} if bypass_governance else {}
        reply = await self._client.delete_objects(Delete=wanted, **self._common, **bypass)
        found = [(_deleted_version(deleted), DELETED) for deleted in reply.get("Deleted", ())]
        found += [
            ((error.get("Key"), error.get("VersionId")), error.get("Code"))
            for error in reply.get("Errors", ())
        ]
        results = dict.fromkeys(versions, UNCONFIRMED)
        return results | {which: code or UNCONFIRMED for which, code in found if which in results}

    async def lock_of(self, key: str, version_id: str) -> ObjectLock | None:
        """See `Requests.lock_of`."""
        reply = await self._client.head_object(Key=key, VersionId=version_id, **self._common)
        if reply.get("ObjectLockLegalHoldStatus") == "ON":
            return ObjectLock("legal hold", None)
        mode = reply.get("ObjectLockMode")
        return ObjectLock(mode, reply.get("ObjectLockRetainUntilDate")) if mode else None

    async def needs_mfa_to_delete(self) -> bool:
        """See `Requests.needs_mfa_to_delete`."""
        reply = await self._client.get_bucket_versioning(**self._common)
        return bool(reply.get("MFADelete") == "Enabled")


def _add_content_md5(params: Mapping[str, Any], **_: Any) -> None:
    """Add the header to DeleteObjects that some servers require beside botocore's own checksum.

    Servers that know the checksum check both (s3fs-fuse #2639, aws-cli #400).
    """
    params["headers"]["Content-MD5"] = content_md5(params["body"])


def _object_version(
    found: Mapping[str, Any], prefix: str, *, is_encoded: bool, is_delete_marker: bool
) -> ObjectVersion:
    """What a listing of versions tells of one.

    Raises:
        InvalidResponseError: Something is missing.
    """
    operation = "ListObjectVersions"
    needed = ["Key", "VersionId", "IsLatest", *([] if is_delete_marker else ["Size"])]
    for name in needed:
        if found.get(name) is None:
            raise invalid_entry(prefix, name, found.get("Key"), operation)
    return ObjectVersion(
        unquote_plus(found["Key"]) if is_encoded else found["Key"],
        found["VersionId"],
        found["IsLatest"],
        is_delete_marker,
        0 if is_delete_marker else found["Size"],
        time_of(found, prefix, operation),
    )


def _deleted_version(deleted: Mapping[str, Any]) -> tuple[Any, Any]:
    """The key and the version id of an entry of a response to DeleteObjects.

    SeaweedFS names a delete marker that was deleted by another element, and leaves out `null` where
    the bucket is not versioned. A delete marker that was *made* has an id that nobody asked for.
    """
    version_id = deleted.get("VersionId")
    if not version_id:
        version_id = deleted.get("DeleteMarkerVersionId") if deleted.get("DeleteMarker") else "null"
    return deleted.get("Key"), version_id


def _position(reply: Mapping[str, Any]) -> tuple[bool | None, str | None]:
    """Whether a listing goes on, and where."""
    return reply.get("IsTruncated"), reply.get("NextContinuationToken") or None


def _version(reply: Mapping[str, Any], operation: str, key: str) -> Version:
    return version_of(etag_of(reply, operation, key), reply.get("Metadata", {}))
