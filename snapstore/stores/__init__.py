"""The object tier: stores that keep bytes under keys and know nothing of snapshots.

For those who write a store of their own, wrap one, or keep objects of their own beside snapshots:

- `ObjectStore` says what a store is, in six methods; the capabilities say what some stores can do
  beside that, and `capability` asks for one.
- `S3ObjectStore`, `FileObjectStore` and `MemoryObjectStore` are stores.
- `ManagedStore` opens, closes and bounds in time any of them, and a `Pace` slows its calls.
- `S3Options` are the options of an S3 store, each with its documentation.
- `snapstore.stores.readback` resolves lost responses for any store that has conditional writes and
  metadata.

A name is imported when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from snapstore.stores.base import (
        PAGE_SIZE,
        UNCONFIRMED,
        Body,
        DamagedResponseError,
        Finding,
        ObjectStore,
        ObjectTooLargeError,
        PreconditionFailedError,
        StoredObject,
        Version,
        content_version,
    )
    from snapstore.stores.capabilities import (
        ConditionalDeleteStore,
        CopyingStore,
        DeferredReadbackStore,
        DelimiterStore,
        DetailedListingStore,
        InspectableStore,
        LocatedStore,
        MetadataStore,
        ObjectDetails,
        ObjectLock,
        ObjectVersion,
        RefusedWrite,
        SweepableStore,
        VersionedStore,
        capability,
    )
    from snapstore.stores.file.store import FileObjectStore
    from snapstore.stores.managed import ManagedStore
    from snapstore.stores.memory import MemoryObjectStore
    from snapstore.stores.pace import Pace
    from snapstore.stores.s3.client import HTTPSession
    from snapstore.stores.s3.options import S3Client, S3Options, S3OwnClientOptions
    from snapstore.stores.s3.store import S3ObjectStore

__all__ = [
    "PAGE_SIZE",
    "UNCONFIRMED",
    "Body",
    "ConditionalDeleteStore",
    "CopyingStore",
    "DamagedResponseError",
    "DeferredReadbackStore",
    "DelimiterStore",
    "DetailedListingStore",
    "FileObjectStore",
    "Finding",
    "HTTPSession",
    "InspectableStore",
    "LocatedStore",
    "ManagedStore",
    "MemoryObjectStore",
    "MetadataStore",
    "ObjectDetails",
    "ObjectLock",
    "ObjectStore",
    "ObjectTooLargeError",
    "ObjectVersion",
    "Pace",
    "PreconditionFailedError",
    "RefusedWrite",
    "S3Client",
    "S3ObjectStore",
    "S3Options",
    "S3OwnClientOptions",
    "StoredObject",
    "SweepableStore",
    "Version",
    "VersionedStore",
    "capability",
    "content_version",
]

_MODULES: Final = (
    "base",
    "capabilities",
    "memory",
    "pace",
    "managed",
    "file.store",
    "s3.options",
    "s3.store",
)
"""Where the names come from, lowest first: none is imported for a name that lies below it."""

if not TYPE_CHECKING:  # type checkers would take any name for one of ours

    def __getattr__(name: str) -> Any:
        if name == "HTTPSession":  # it imports aiobotocore
            return import_module(f"{__name__}.s3.client").HTTPSession
        if name in __all__:
            for module in _MODULES:
                home = import_module(f"{__name__}.{module}")
                if name in home.__all__:
                    return globals().setdefault(name, getattr(home, name))
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
