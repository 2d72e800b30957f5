"""What a fork tells: of each object as it goes, and in total."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["ForkEvent", "ForkReport"]


class ForkEvent(msgspec.Struct, frozen=True, kw_only=True, tag="fork", omit_defaults=True):
    """An object of a fork.

    Attributes:
        key: The full key of the source.
        into: The full key of the copy.
        result: `"planned"` in a dry run; `"copied"`; `"missing"` where the source was deleted
            meanwhile.
    """

    key: str
    into: str
    result: Literal["planned", "copied", "missing"]


class ForkReport(msgspec.Struct, kw_only=True):
    """Totals of a fork.

    Attributes:
        dry_run: Whether nothing was changed.
        locations: Locations of the fork.
        copied: Objects copied, or to be copied: history, latest and stash.
        missing: Objects that were deleted at the source meanwhile. Without a latest snapshot, the
            fork of a location stays unfinished.
        requests: Calls of the store: on S3 a request each, without retries.
    """

    dry_run: bool = False
    locations: int = 0
    copied: int = 0
    missing: int = 0
    requests: int = 0

    @property
    def ok(self) -> bool:
        """Whether everything was copied."""
        return not self.missing
