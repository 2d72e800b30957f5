"""The snapshot tier: one storage over any object store, and its three backends."""
