"""Move old snapshots into packs, and back."""
