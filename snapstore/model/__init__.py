"""What callers hold: ids, locations and keys, snapshots, and the protocols of a storage. No I/O."""
