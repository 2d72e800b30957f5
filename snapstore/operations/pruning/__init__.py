"""Delete what is not needed any more: snapshots, or whole sessions."""
