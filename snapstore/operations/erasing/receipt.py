"""What an erasure tells: of each object as it goes, and at the end in a receipt."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

__all__ = ["EraseEvent", "ErasureReceipt", "RetainedVersion"]


class EraseEvent(msgspec.Struct, frozen=True, kw_only=True, tag="erase", omit_defaults=True):
    """An object, a version or a delete marker that was erased, or in a dry run would be.

    Attributes:
        key: The full key.
        kind: What it is. Without versions there are only objects.
        result: `"planned"` in a dry run; `"erased"`; `"retained"` where the server keeps it under a
            lock; `"failed"`, with the server's code.
        version_id: The version; `None` of an object.
        size: Its bytes; `None` where listings don't tell.
        code: The server's code.
    """

    key: str
    kind: Literal["object", "version", "delete marker"]
    result: Literal["planned", "erased", "retained", "failed"]
    version_id: str | None = None
    size: int | None = None
    code: str | None = None


class RetainedVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A version that could not be erased.

    Attributes:
        key: The full key.
        version_id: The version; `None` of an object without versions.
        code: The server's code for the refusal.
        reason: `"GOVERNANCE"` or `"COMPLIANCE"`, the mode of an object lock; `"legal hold"`;
            `"MFA delete"`; `None` where nothing tells.
        until: When the lock ends; `None` for a lock without end, or none.
    """

    key: str
    version_id: str | None
    code: str
    reason: str | None = None
    until: datetime | None = None


class ErasureReceipt(msgspec.Struct, kw_only=True):
    """What was erased, when, and what could not be. It has keys and no content.

    Attributes:
        place: The bucket, or the directory.
        prefixes: What the keys of all that was erased begin with.
        dry_run: Whether nothing was changed.
        started_at: When it began.
        finished_at: When it ended; `None` if it was cut off.
        objects: Objects deleted as usual.
        versions: Versions erased for good.
        delete_markers: Delete markers erased.
        bytes: Bytes of what was erased, as far as listings tell.
        retained: What could not be erased.
        nothing_left: Whether all was listed once more, and nothing was there. `None` if that could
            not be found out: the server can't list versions, or it was cut off.
        notes: What can't be known, in words.
        requests: Calls of the store: on S3 a request each, without retries.
    """

    place: str
    prefixes: tuple[str, ...]
    dry_run: bool = False
    started_at: datetime
    finished_at: datetime | None = None
    objects: int = 0
    versions: int = 0
    delete_markers: int = 0
    bytes: int = 0
    retained: list[RetainedVersion] = []
    nothing_left: bool | None = None
    notes: list[str] = []
    requests: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing is left."""
        return self.nothing_left is True
