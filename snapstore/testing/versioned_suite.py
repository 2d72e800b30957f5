from snapstore.testing.snapshot_suite import SnapshotStorageTests


class VersionedSnapshotStorageTests(SnapshotStorageTests): ...
