"""The object tier: stores that keep bytes under keys and know nothing of snapshots."""
