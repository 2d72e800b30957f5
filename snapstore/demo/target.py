"""Where the demo works, and how it holds what it says to be true."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from snapstore import S3Storage, SnapshotLocation

__all__ = ["DemoError", "Target", "present", "verify"]

T = TypeVar("T")


class DemoError(Exception):
    """What the demo says is not so, or it could not get that far."""


class Target(msgspec.Struct, frozen=True):
    """Where the demo works: a bucket, and a session of its own."""

    bucket: str
    prefix: str
    session_id: str
    endpoint_url: str | None
    region: str | None

    @property
    def location(self) -> SnapshotLocation:
        """The agent's location."""
        return SnapshotLocation.agent(self.session_id, "weather")

    @property
    def session(self) -> str:
        """What all keys of the session begin with."""
        return f"{self.prefix}/{self.session_id}/" if self.prefix else f"{self.session_id}/"

    @property
    def snapshots(self) -> str:
        """What the keys of the agent's snapshots begin with; printed as `…/`."""
        return f"{self.session}scopes/agent/weather/snapshots/"

    def storage(self) -> S3Storage:
        """A storage on this target, not open yet."""
        return S3Storage(
            self.bucket,
            prefix=self.prefix,
            endpoint_url=self.endpoint_url,
            region=self.region,
            timeout=20.0,
        )


def verify(holds: bool, otherwise: str) -> None:
    """Raise `DemoError` with these words unless something holds."""
    if not holds:
        raise DemoError(otherwise)


def present(value: T | None) -> T:
    """Hand back what must be there, or raise `DemoError`."""
    if value is None:
        raise DemoError("something that was saved is not there")
    return value
