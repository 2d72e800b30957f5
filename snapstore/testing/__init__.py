"""The conformance suites that every storage is held to, ours and yours.

Subclass the one that fits and give it one fixture, `subject`; each suite's docstring has a complete
example.

- `SnapshotStorageTests`: the six operations of the Strands Agents `SnapshotStorage`.
- `VersionedSnapshotStorageTests`: these, and all that snapstore adds to them.
- `ObjectStoreTests`: an object store, for a backend of `snapstore.ObjectSnapshotStorage`.
- `StoreCapabilityTests`: what an object store can do beside that, as far as it claims it.

A suite looks behind what it tests, by a `RawObjects`. For a bucket, a directory and a dictionary
there are `BucketObjects`, `DirectoryObjects` and `DictObjects`; for another place, write its three
methods.

For tests without HTTP, `FaultyObjectStore` and `LatencyObjectStore` go between a storage and its
object store: the one fails where it is told to, the other takes its time.

The suites need pytest, `pip install "snapstore[pytest]"`; what else is in this package does not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from snapstore.testing.doubles import (
    FaultyObjectStore,
    LatencyObjectStore,
    StoreCall,
    StoreFault,
    faults_in_turn,
)
from snapstore.testing.raw import BucketObjects, DictObjects, DirectoryObjects
from snapstore.testing.subjects import RawObjects, StorageSubject, StoreSubject

if TYPE_CHECKING:
    from snapstore.testing.capability_suite import StoreCapabilityTests
    from snapstore.testing.object_suite import ObjectStoreTests
    from snapstore.testing.snapshot_suite import SnapshotStorageTests
    from snapstore.testing.versioned_suite import VersionedSnapshotStorageTests

__all__ = [
    "BucketObjects",
    "DictObjects",
    "DirectoryObjects",
    "FaultyObjectStore",
    "LatencyObjectStore",
    "ObjectStoreTests",
    "RawObjects",
    "SnapshotStorageTests",
    "StorageSubject",
    "StoreCall",
    "StoreCapabilityTests",
    "StoreFault",
    "StoreSubject",
    "VersionedSnapshotStorageTests",
    "faults_in_turn",
]

_SUITES: Final = {
    "ObjectStoreTests": "snapstore.testing.object_suite",
    "SnapshotStorageTests": "snapstore.testing.snapshot_suite",
    "StoreCapabilityTests": "snapstore.testing.capability_suite",
    "VersionedSnapshotStorageTests": "snapstore.testing.versioned_suite",
}

if not TYPE_CHECKING:  # type checkers would take any name for one of ours

    def __getattr__(name: str) -> Any:
        """Import a suite when it is asked for, so that the rest needs no pytest."""
        if name not in _SUITES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            import pytest
        except ImportError as error:
            raise ImportError(
                'the conformance suites need pytest: pip install "snapstore[pytest]"'
            ) from error
        # Before the import, or a failing assertion would not show its values.
        pytest.register_assert_rewrite(*_SUITES.values(), "snapstore.testing.history_suite")
        return getattr(import_module(_SUITES[name]), name)
