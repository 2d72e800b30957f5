"""What a verification finds, and the totals of it."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["VerifyFinding", "VerifyReport"]

Kind = Literal[
    "latest damaged",
    "too large",
    "latest missing",
    "latest without its history",
    "latest differs from its history",
    "history damaged",
    "manifest damaged",
    "wrong scope",
    "id in the future",
    "listing out of order",
    "pack damaged",
    "unfinished fork",
    "unfinished archive",
    "set aside",
    "foreign object",
    "stash without session",
]


class VerifyFinding(msgspec.Struct, frozen=True, kw_only=True, tag="verify", omit_defaults=True):
    """Something that is not as it should be.

    Attributes:
        kind: What it is:

            - `"latest damaged"`, `"history damaged"`, `"manifest damaged"`: what is stored can't be
              read;
            - `"too large"`: it is larger than this storage's `max_snapshot_bytes`, and is not read;
            - `"latest missing"`: there is history without a latest snapshot, for a minute at least;
            - `"latest without its history"`: the snapshot that latest was saved from is neither in
              history nor in a pack;
            - `"latest differs from its history"`: it has another document;
            - `"wrong scope"`: a snapshot of an agent lies where those of orchestrators belong, or
              the other way round;
            - `"id in the future"`: an id is over a day ahead of this clock;
            - `"listing out of order"`: the store's listing can't be relied on;
            - `"pack damaged"`: a pack can't be read, or a snapshot in it, or its claim;
            - `"unfinished fork"`: a fork that was cut off;
            - `"unfinished archive"`: an operation is at work on a pack, or was cut off;
            - `"set aside"`: damaged bytes that an earlier run has set aside;
            - `"foreign object"`: an object that is not of the layout;
            - `"stash without session"`.

        key: The full key of the object.
        message: What it means, in words, without any content.
        mended: What was done about it; `None` if nothing was.
    """

    kind: Kind
    key: str
    message: str
    mended: str | None = None


class VerifyReport(msgspec.Struct, kw_only=True):
    """Totals of a verification.

    Attributes:
        sessions: Sessions that were looked at.
        objects: Objects that were read or looked at.
        findings: What was found.
        mended: How much of it was mended.
        requests: Calls of the store: on S3 a request each, without retries.
    """

    sessions: int = 0
    objects: int = 0
    findings: int = 0
    mended: int = 0
    requests: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing was found that is not mended."""
        return self.findings == self.mended
