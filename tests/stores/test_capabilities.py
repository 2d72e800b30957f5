"""Which capabilities each store of ours claims, and that what wraps a store claims the same."""

import pytest

from snapstore.stores import (
    ConditionalDeleteStore,
    CopyingStore,
    DeferredReadbackStore,
    DelimiterStore,
    DetailedListingStore,
    FileObjectStore,
    InspectableStore,
    LocatedStore,
    ManagedStore,
    MemoryObjectStore,
    MetadataStore,
    S3ObjectStore,
    SweepableStore,
    VersionedStore,
    capability,
)
from snapstore.testing import FaultyObjectStore, LatencyObjectStore

ALL = {
    *(ConditionalDeleteStore, CopyingStore, DeferredReadbackStore, DelimiterStore),
    *(DetailedListingStore, InspectableStore, LocatedStore, MetadataStore, SweepableStore),
    VersionedStore,
}
CLAIMED = {
    "memory": ALL - {DeferredReadbackStore, InspectableStore, SweepableStore, VersionedStore},
    "file": ALL - {DeferredReadbackStore, MetadataStore, VersionedStore},
    "S3": ALL - {SweepableStore},
}
STORES = {
    "memory": MemoryObjectStore,
    "file": lambda: FileObjectStore("/nowhere"),
    "S3": lambda: S3ObjectStore("bucket"),
}


def claimed(store):
    return {kind for kind in ALL if capability(store, kind) is not None}


@pytest.mark.parametrize("name", STORES)
def test_a_store_claims_what_it_can_do(name) -> None:
    store = STORES[name]()
    assert claimed(store) == CLAIMED[name]
    assert claimed(ManagedStore(store)) == CLAIMED[name]
    for double in (FaultyObjectStore(store), LatencyObjectStore(store, 0.0)):
        assert claimed(double) == CLAIMED[name] - {DeferredReadbackStore}
        assert claimed(ManagedStore(double)) == claimed(double)


@pytest.mark.parametrize("name", STORES)
def test_what_wraps_a_store_is_found_where_it_has_the_methods_itself(name) -> None:
    store = STORES[name]()
    outside = ManagedStore(store)
    for kind in CLAIMED[name]:
        found = capability(outside, kind)
        assert found is (outside if isinstance(outside, kind) else store)
