"""Do what the events of a dry run say, and no more."""

from __future__ import annotations
