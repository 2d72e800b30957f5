"""Strands agents, in both languages: one session that either SDK can go on with."""

from snapstore.integrations.strands.convert import convert_snapshot, is_snapshot_key
from snapstore.integrations.strands.interrupts import convert_interrupt_id

__all__ = ["convert_interrupt_id", "convert_snapshot", "is_snapshot_key"]
