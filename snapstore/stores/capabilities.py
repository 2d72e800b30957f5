"""What some object stores can do beside `ObjectStore`: a Protocol for each capability.

Code that makes use of one asks by `capability`, and does without where a store lacks it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol, TypeVar, cast, runtime_checkable

from snapstore.stores.base import PAGE_SIZE, Finding, ObjectStore, Version

__all__ = [
    "ConditionalDeleteStore",
    "CopyingStore",
    "DeferredReadbackStore",
    "DelimiterStore",
    "DetailedListingStore",
    "InspectableStore",
    "LocatedStore",
    "MetadataStore",
    "ObjectDetails",
    "ObjectLock",
    "ObjectVersion",
    "RefusedWrite",
    "SweepableStore",
    "VersionedStore",
    "beginning_of",
    "capability",
    "validate_delimiter",
]

Kind = TypeVar("Kind")


def capability(store: ObjectStore, kind: Callable[..., Kind]) -> Kind | None:
    """The store as one that can do more than `ObjectStore` says, if it can.

    A store has a capability if it has its methods. A store that wraps another one, or whose server
    may lack something, has a method `capability(kind)` that answers instead.

    Args:
        store: The store.
        kind: The capability: a Protocol of this module.

    Returns:
        The store, or what it wraps, typed as `kind`; `None` if it lacks the capability.

    Example:
        ::

            sweepable = capability(store, SweepableStore)
            if sweepable is not None:
                await sweepable.sweep("session-1/")
    """
    answer = getattr(store, "capability", None)
    if answer is not None:
        return cast("Kind | None", answer(kind))
    # Type checkers take no Protocol for a `type[Kind]`.
    return cast("Kind", store) if isinstance(store, cast("type", kind)) else None


@runtime_checkable
class MetadataStore(Protocol):
    """Optional capability: short texts that are kept beside an object."""

    async def put_with_metadata(
        self,
        key: str,
        data: bytes | Callable[[], bytes],
        metadata: Mapping[str, str],
        *,
        if_match: Version | None = None,
        if_none_match: bool = False,
    ) -> Version:
        """Write as `ObjectStore.put` does.

        Args:
            key: Its full key.
            data: The body; or a function that makes it for each try, so that no two tries have
                equal bytes.
            metadata: ASCII texts by name, in lower case, with which the object is read:
                `StoredObject.metadata`.
            if_match: As in `ObjectStore.put`.
            if_none_match: As in `ObjectStore.put`.
        """
        ...


class RefusedWrite(Protocol):
    """A conditional write that the server has refused.

    It may have been refused by its own first try, which the object as it is now tells.
    """

    def resolve(self, found: Version | None) -> Version:
        """Tell what became of it.

        Args:
            found: The version of the object, read after the refusal; `None` if there is none.

        Returns:
            The version that it wrote after all.

        Raises:
            PreconditionFailedError: It was not applied.
            OutcomeUnknownError: Nothing can tell.
        """
        ...


@runtime_checkable
class DeferredReadbackStore(Protocol):
    """Optional capability: a conditional write that is refused is left to its caller.

    For a caller who reads the object next anyway: it saves a request.
    """

    async def try_put(
        self,
        key: str,
        data: bytes,
        *,
        if_match: Version | None = None,
        if_none_match: bool = False,
    ) -> Version | RefusedWrite:
        """Write as `ObjectStore.put` does, but return a refused write instead of resolving it."""
        ...


@runtime_checkable
class InspectableStore(Protocol):
    """Optional capability: a store that can report on its server and client."""

    async def inspect(self, key: str) -> list[Finding]:
        """Find out what `snapstore.ObjectSnapshotStorage.check` can't.

        Args:
            key: Where there is no object: one may be written here, and is removed again.
        """
        ...


@runtime_checkable
class SweepableStore(Protocol):
    """Optional capability: a store in which interrupted writes leave what is no object."""

    async def sweep(self, prefix: str) -> None:
        """Remove what interrupted writes have left: unfinished objects, empty directories.

        What a writer is at work on stays.

        Args:
            prefix: Remove leftovers of writes to keys under this prefix, which ends with `/`.
        """
        ...


@runtime_checkable
class LocatedStore(Protocol):
    """Optional capability: a store that can tell where its objects lie."""

    async def locate(self) -> str:
        """Tell where the objects lie.

        Returns:
            A URL that ends with `/`, without credentials. With a key behind it, it is the same for
            all stores in which this key is the same object, as far as that can be known.
        """
        ...


class ObjectDetails(NamedTuple):
    """What a listing tells of an object.

    Attributes:
        key: Its full key.
        size: Its bytes.
        modified: When it was written, by the server's clock, in UTC.
        etag: Its etag, without quotes; `None` where the store would have to read the object.
    """

    key: str
    size: int
    modified: datetime
    etag: str | None


@runtime_checkable
class DetailedListingStore(Protocol):
    """Optional capability: listings tell size, time and etag of each object."""

    def scan_details(
        self, prefix: str, *, start_after: str | None = None, page_size: int = PAGE_SIZE
    ) -> AsyncGenerator[list[ObjectDetails], None]:
        """List objects as `ObjectStore.scan` lists their keys, with as many requests."""
        ...


@runtime_checkable
class DelimiterStore(Protocol):
    """Optional capability: listings of what keys have in common up to a delimiter."""

    def scan_prefixes(
        self,
        prefix: str,
        *,
        delimiter: str,
        start_after: str | None = None,
        page_size: int = PAGE_SIZE,
    ) -> AsyncGenerator[list[str], None]:
        """List the different beginnings of keys, from a prefix up to the next delimiter.

        Args:
            prefix: What the keys begin with; any text, `""` for all.
            delimiter: A text that is not empty. Keys without it after the prefix are left out.
            start_after: Leave out what keys up to and including this one begin with, and what it
                begins with itself. It counts in the order in which the store goes from page to
                page; within a page it may be another. Give a whole beginning: SeaweedFS takes `a`
                for the directory, and leaves out `a/b`, too.
            page_size: How many keys and beginnings a request returns, at the most; 1 to 1,000.

        Returns:
            An async generator of pages, a request each. A beginning ends with the delimiter, and
            comes once. Which of two comes first is up to the store. A page may be empty.
            SeaweedFS keeps directories: by the delimiter `/` it also lists those whose keys have
            all been deleted.

        Raises:
            ValueError: The delimiter is empty.
            UnsupportedOperationError: The server does not take this delimiter.
        """
        ...


def beginning_of(key: str, prefix: str, delimiter: str) -> str | None:
    """What a key begins with, up to the first delimiter after the prefix; `None` without one."""
    if not key.startswith(prefix):
        return None
    before, found, _ = key[len(prefix) :].partition(delimiter)
    return f"{prefix}{before}{found}" if found else None


def validate_delimiter(delimiter: str) -> None:
    """Check a delimiter of `DelimiterStore.scan_prefixes`.

    Raises:
        ValueError: It is empty.
    """
    if not delimiter:
        raise ValueError("delimiter must not be empty")


@runtime_checkable
class CopyingStore(Protocol):
    """Optional capability: the server copies objects, and no body passes through here."""

    async def copy(
        self, source: str, key: str, *, metadata: Mapping[str, str] | None = {}
    ) -> Version | None:
        """Copy an object, over any that there is under the new key.

        Args:
            source: The full key to be copied.
            key: The full key of the copy.
            metadata: What is kept beside the copy, as in `MetadataStore`, by stores that keep
                metadata; `None` for what is kept beside the source.

        Returns:
            The version of the copy; `None` if there is no source.
        """
        ...


class ObjectVersion(NamedTuple):
    """One version of an object in a versioned bucket, or a mark that it was deleted.

    Attributes:
        key: The full key.
        version_id: The id of the version; `"null"` for what was written without versioning.
        is_current: Whether it is what a read finds.
        is_delete_marker: Whether it is a delete marker.
        size: Its bytes; 0 for a delete marker.
        modified: When it was written, by the server's clock, in UTC.
    """

    key: str
    version_id: str
    is_current: bool
    is_delete_marker: bool
    size: int
    modified: datetime


class ObjectLock(NamedTuple):
    """What keeps a version from being deleted.

    Attributes:
        mode: `"GOVERNANCE"` or `"COMPLIANCE"`; `"legal hold"`; `"MFA delete"`.
        until: When it ends; `None` where it has no end.
    """

    mode: str
    until: datetime | None


@runtime_checkable
class VersionedStore(Protocol):
    """Optional capability: what was overwritten or deleted may remain as a version."""

    def scan_versions(
        self, prefix: str, *, page_size: int = PAGE_SIZE
    ) -> AsyncGenerator[list[ObjectVersion], None]:
        """List all versions and delete markers of the keys under a prefix, page by page.

        Args:
            prefix: What the keys begin with.
            page_size: Versions in a page, at the most; 1 to 1,000.

        Returns:
            An async generator of pages, a request each. Without versioning there is one version
            of each object.
        """
        ...

    async def delete_versions(
        self, versions: Sequence[tuple[str, str]], *, bypass_governance: bool = False
    ) -> Mapping[tuple[str, str], str]:
        """Delete versions for good. One that does not exist counts as deleted.

        Args:
            versions: The full key and the version id of each, at most 1,000, none twice.
            bypass_governance: Whether those locked in governance mode are deleted, too.

        Returns:
            Those that were not deleted, each with the server's code, or `UNCONFIRMED`.
        """
        ...

    async def lock_of(self, key: str, version_id: str) -> ObjectLock | None:
        """Find out what keeps a version from being deleted.

        Args:
            key: The full key.
            version_id: The version.

        Returns:
            The lock; `None` if nothing tells of one.
        """
        ...


@runtime_checkable
class ConditionalDeleteStore(Protocol):
    """Optional capability: an object is deleted only at the version that was read."""

    async def has_conditional_deletes(self, scratch_key: str) -> bool:
        """Find out whether the server keeps the condition of a delete. Many ignore it.

        It is found out once for each store, by a delete with another etag.

        Args:
            scratch_key: Where there is no object: one may be written here, and is removed again.

        Returns:
            Whether `delete_if_match` can be used.
        """
        ...

    async def delete_if_match(self, key: str, version: Version) -> None:
        """Delete an object.

        Args:
            key: Its full key.
            version: Delete only this version: compared by its etag.

        Raises:
            PreconditionFailedError: The object is at another version; or there is none
                (`is_missing`), which not every server tells. Its outcome is `"unknown"` if a
                response to an earlier try was lost: then this try may have been the one.
            OutcomeUnknownError: The response was lost, and it may yet be deleted, or nothing tells
                whether it was.
            UnsupportedOperationError: The server ignores conditions, or
                `has_conditional_deletes` was not asked before.
        """
        ...
