"""One write: its id and lineage, what is known of its attempts, and what a read back shows."""

from __future__ import annotations

import enum
from collections.abc import Mapping

from snapstore.errors import Outcome
from snapstore.stores.base import Version
from snapstore.stores.readback.lineage import (
    CREATED,
    LINEAGE,
    WRITE_ID,
    entry_of,
    etag_in,
    extended,
    has_write_id,
    is_replaced,
    is_same_version,
    new_write_id,
)

__all__ = ["AttemptOutcome", "Classification", "Write"]


class AttemptOutcome(enum.Enum):
    """What is known of an attempt that did not succeed."""

    REJECTED = enum.auto()
    """It was not applied and never will be: it was not sent, or the server has said so."""
    AMBIGUOUS = enum.auto()
    """The server has finished with it, and did not say whether it was applied."""
    LOST = enum.auto()
    """The server did not answer. It may have applied the write, or may do so later."""


class Classification(enum.Enum):
    """What an object shows of a write that is neither its current version nor in its lineage."""

    SUPERSEDED = enum.auto()
    """Another write came first. Ours was not applied and never will be."""
    NOT_APPLIED = enum.auto()
    """The object is still at the version that the write was to replace."""
    UNKNOWN = enum.auto()
    """Nothing can tell."""


class Write:
    """One write of one object, however often it is sent.

    The sender calls `begin_attempt` before it builds a request, `sent` when the request leaves, and
    `ended` when an attempt fails. A successful attempt ends with `version`.

    Args:
        replaces: The version to be replaced (`If-Match`); `None` for no such condition.
        create: Whether there must be no object (`If-None-Match: *`).
        metadata: What else to keep beside the object.

    Attributes:
        id: What it is recognised by.
        metadata: The object's metadata, with write id and lineage.
        condition: The etag to be replaced, `"*"` for no object, `None` for no condition.
        may_still_apply: Whether an attempt was lost, so that the server may yet apply it.
    """

    def __init__(
        self, replaces: Version | None, *, create: bool, metadata: Mapping[str, str] = {}
    ) -> None:
        self.id: str = new_write_id()
        self.condition: str | None = "*" if create else None if replaces is None else replaces.etag
        self.may_still_apply: bool = False
        self._has_begun = False
        self._is_ambiguous = False
        self._is_in_flight = False
        self._lineage: list[str] = [CREATED] if create else []
        if replaces is not None:
            self._lineage = extended(replaces)
        self.metadata: dict[str, str] = {**metadata, WRITE_ID: self.id}
        if self._lineage:
            self.metadata[LINEAGE] = " ".join(self._lineage)

    @property
    def may_be_applied(self) -> bool:
        """Whether an attempt may have been applied, although no response says so."""
        return self._is_ambiguous or self._is_in_flight

    @property
    def outcome(self) -> Outcome:
        """What is known of the write, as long as no response says that it was applied."""
        return "unknown" if self.may_be_applied else "not applied"

    def begin_attempt(self) -> None:
        """Prepare to build a request, the first one or a retry.

        Each attempt of an unconditional write may be applied, also over what others have written
        since the attempt before. So each one makes a version of its own, with an id of its own.
        """
        if self._has_begun and self.condition is None:
            self.id = self.metadata[WRITE_ID] = new_write_id()
        self._has_begun = True

    def sent(self) -> None:
        """Note that a request is being sent. Until `ended`, it may have been applied."""
        self.abandoned()
        self._is_in_flight = True

    def ended(self, outcome: AttemptOutcome) -> None:
        """Note how the attempt in flight has failed."""
        self._is_in_flight = False
        self._is_ambiguous = self._is_ambiguous or outcome is not AttemptOutcome.REJECTED
        self.may_still_apply = self.may_still_apply or outcome is AttemptOutcome.LOST

    def abandoned(self) -> None:
        """Note that an attempt in flight, if there is one, has ended and nothing is known of it."""
        if self._is_in_flight:
            self.ended(AttemptOutcome.LOST)

    def version(self, etag: str) -> Version:
        """The version that this write has made."""
        return Version(etag, " ".join([entry_of(self.id, etag), *self._lineage]))

    def classify(self, found: Version | None) -> Version | Classification:
        """Tell from the object as it is now whether this write was applied.

        The cases are those in the docstring of the package.

        Args:
            found: The object's version; `None` if there is no object.

        Returns:
            The version that was written, if it was applied; otherwise what is known.
        """
        entries = [] if found is None else found.lineage.split()
        for place, entry in enumerate(entries):
            if entry.startswith(self.id):
                return Version(etag_in(entry), " ".join(entries[place:]))
        if self.condition == "*":
            # No object, or another writer's: ours may have been there until a delete.
            is_refused = entries and not self.may_be_applied
            return Classification.SUPERSEDED if is_refused else Classification.UNKNOWN
        replaced = self._lineage[0]
        if any(is_replaced(entries, place, replaced) for place in range(1, len(entries))):
            return Classification.SUPERSEDED
        # A copy has the bytes of the version to be replaced, and so its etag, but not its write id.
        is_copy = entries and has_write_id(replaced) and not has_write_id(entries[0])
        if (
            entries
            and is_same_version(entries[0], replaced)
            and not (is_copy and self.may_be_applied)
        ):
            return Classification.NOT_APPLIED
        return Classification.UNKNOWN if self.may_be_applied else Classification.SUPERSEDED
