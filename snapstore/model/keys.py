"""Where each object lies: locations to keys, and keys back to snapshot ids.

The layout is that of the Strands Agents SDKs, which read what is written here::

    [<prefix>/]<session_id>/scopes/<scope>/<scope_id>/snapshots/
        manifest.json
        snapshot_latest.json
        immutable_history/
            snapshot_<uuid7>.json

Beside it, `archive/` holds packs of snapshots, which only snapstore reads::

        archive/
            <first id>_<last id>_<16 hex digits>.jsonl.zst
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Iterable
from typing import Final, Literal, NamedTuple, cast

from snapstore.errors import InvalidIdentifierError, shown
from snapstore.model.ids import (
    IDENTIFIER,
    UUID7,
    Scope,
    is_identifier,
    validate_identifier,
)
from snapstore.model.snapshot import SnapshotLocation

__all__ = ["MAX_KEY_BYTES", "Layout", "ObjectPlace", "PackName", "key_base"]

_LONGEST_ID: Final = 255
MAX_KEY_BYTES: Final = 1024
"""How long a key may be in S3 (Amazon S3 User Guide, "Naming Amazon S3 objects")."""

_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")
_HISTORY_OBJECT = re.compile(rf"snapshot_({UUID7})\.json", re.ASCII)
_OWN_OBJECT = re.compile(r"scopes/(?:agent|multiAgent)/[^/]+/snapshots/")
_PLACE = re.compile(
    rf"scopes/(agent|multiAgent)/({IDENTIFIER})/snapshots/(.+)", re.ASCII | re.DOTALL
)
_LOCATION = re.compile(rf"scopes/(agent|multiAgent)/({IDENTIFIER})/snapshots/", re.ASCII)
_PACK = re.compile(rf"({UUID7})_({UUID7})_([0-9a-f]{{16}})", re.ASCII)
_PACK_SUFFIX: Final = ".jsonl.zst"
_CLAIM_SUFFIX: Final = ".claim"
_NESTED_OBJECT = re.compile(r"/scopes/(?:agent|multiAgent)/[^/]+/")
_LATEST: Final = "snapshot_latest.json"
_MANIFEST: Final = "manifest.json"
_HISTORY: Final = "immutable_history/"
_ARCHIVE: Final = "archive/"
_DAMAGED: Final = "damaged/"

_SDK_NAMES: Final = ("context", "memory", "offloader")
_SDK_DIRECTORY = re.compile(r"(?!scopes/)(?:[^/]*/)*?(?:context|memory|offloader)/")
"""Directories of the Strands SDKs beside sessions: stash, memory and offloaded results."""


def key_base(prefix: str, longest: int) -> str:
    """What the keys of a store begin with: the prefix and its `/`; `""` where there is none.

    Args:
        prefix: The prefix, without the closing `/`; used verbatim.
        longest: How many bytes the longest key has after it.

    Raises:
        InvalidIdentifierError: The prefix is not text that S3 takes in a key, or so long that a
            key could pass 1,024 bytes.

    Warns:
        UserWarning: The prefix begins or ends with `/`, which makes empty path segments.
    """
    if not isinstance(prefix, str):
        raise InvalidIdentifierError(f"prefix must be a str, not a {type(prefix).__name__}")
    prefix = str.__str__(prefix)  # what a subclass shows in a key may be something else
    try:
        length = len(prefix.encode())
    except UnicodeEncodeError:
        raise InvalidIdentifierError("prefix can't be written in UTF-8") from None
    if _CONTROL_CHARACTER.search(prefix):
        raise InvalidIdentifierError("prefix must not contain control characters")
    room = MAX_KEY_BYTES - len("/") - longest
    if length > room:
        raise InvalidIdentifierError(
            f"prefix must be at most {room} bytes, so that every key fits into "
            f"{MAX_KEY_BYTES}; it has {length}"
        )
    if prefix.startswith("/") or prefix.endswith("/"):
        warnings.warn(
            f"prefix {prefix!r} begins or ends with '/': keys will have empty path segments",
            stacklevel=_level_of_the_caller(),
        )
    return f"{prefix}/" if prefix else ""


class ObjectPlace(NamedTuple):
    """What an object of a session is.

    Attributes:
        location: Whose it is.
        kind: Latest, a snapshot in history, the manifest, a part of the archive, or damaged bytes
            that were set aside.
        snapshot_id: The id in history; `None` for what is not there.
    """

    location: SnapshotLocation
    kind: Literal["latest", "history", "manifest", "archive", "damaged"]
    snapshot_id: str | None = None


class PackName(NamedTuple):
    """What the key of a pack tells.

    Attributes:
        stem: The key without its suffix.
        first: The lowest id in it.
        last: The highest id in it.
        digest: The first 16 hexadecimal digits of the SHA-256 of the pack.
    """

    stem: str
    first: str
    last: str
    digest: str

    @property
    def key(self) -> str:
        """The key of the pack."""
        return f"{self.stem}{_PACK_SUFFIX}"

    @property
    def claim(self) -> str:
        """The key of the claim on the pack, while an operation is at work on it."""
        return f"{self.stem}{_CLAIM_SUFFIX}"


class Layout:
    """The keys of one store.

    Args:
        prefix: What its keys begin with, without the closing `/`; used verbatim. `""` for none.

    Raises:
        InvalidIdentifierError: The prefix is not text that S3 takes in a key, or so long that a
            key could pass 1,024 bytes.

    Warns:
        UserWarning: The prefix begins or ends with `/`, which makes empty path segments.
    """

    def __init__(self, prefix: str = "") -> None:
        longest_id = "x" * _LONGEST_ID
        self._base = key_base(
            prefix,
            len(
                f"{longest_id}/scopes/multiAgent/{longest_id}/snapshots/immutable_history/"
                "snapshot_00000000-0000-7000-8000-000000000000.json"
            ),
        )

    def namespace(self, name: str) -> Layout:
        """The keys of a store under a longer prefix.

        Args:
            name: One more segment of the prefix.

        Raises:
            InvalidIdentifierError: It can't be one segment of a key, or the prefix becomes too
                long.
        """
        if not isinstance(name, str):
            raise InvalidIdentifierError(f"namespace must be a str, not a {type(name).__name__}")
        if name in ("", ".", "..") or "/" in name:
            raise InvalidIdentifierError(
                f"namespace must be one path segment without '/', not {shown(name)!r}"
            )
        if name in ("session", *_SDK_NAMES):
            raise InvalidIdentifierError(
                f"namespace must not be {shown(name)!r}: the Strands SDKs keep other things there"
            )
        return Layout(f"{self._base}{str.__str__(name)}")

    def latest(self, location: SnapshotLocation) -> str:
        """The key of the latest snapshot."""
        return f"{self._snapshots(location)}{_LATEST}"

    def manifest(self, location: SnapshotLocation) -> str:
        """The key of the manifest."""
        return f"{self._snapshots(location)}{_MANIFEST}"

    def history(self, location: SnapshotLocation, snapshot_id: str) -> str:
        """The key of a snapshot in history; the id is one that has been validated."""
        return f"{self.history_prefix(location)}snapshot_{snapshot_id}.json"

    def history_prefix(self, location: SnapshotLocation) -> str:
        """What the keys of all history of a location begin with."""
        return f"{self._snapshots(location)}{_HISTORY}"

    def archive_prefix(self, location: SnapshotLocation) -> str:
        """What the keys of all packs of a location begin with."""
        return f"{self._snapshots(location)}{_ARCHIVE}"

    def pack(self, location: SnapshotLocation, first: str, last: str, digest: str) -> PackName:
        """The name of a pack.

        Args:
            location: Whose snapshots it holds.
            first: The lowest id in it.
            last: The highest id in it.
            digest: The SHA-256 of the pack, in hexadecimal digits.

        Raises:
            InvalidIdentifierError: The key would be longer than 1,024 bytes.
        """
        stem = f"{self.archive_prefix(location)}{first}_{last}_{digest[:16]}"
        name = PackName(stem, first, last, digest[:16])
        if len(name.key.encode()) > MAX_KEY_BYTES:
            raise InvalidIdentifierError(
                f"the key of a pack of {location.session_id} would have more than {MAX_KEY_BYTES} "
                "bytes: the prefix is too long for an archive"
            )
        return name

    @staticmethod
    def pack_in(key: str, archive_prefix: str) -> PackName | None:
        """The pack that a key in an archive is of, or is the claim of; `None` if of none."""
        for suffix in (_PACK_SUFFIX, _CLAIM_SUFFIX):
            stem = key.removesuffix(suffix)
            match = _PACK.fullmatch(stem, len(archive_prefix))
            if match is not None and stem != key:
                return PackName(stem, match[1], match[2], match[3])
        return None

    def damaged(self, location: SnapshotLocation, name: str) -> str:
        """The key under which damaged bytes are set aside."""
        return f"{self._snapshots(location)}{_DAMAGED}{name}"

    def session_prefix(self, session_id: str) -> str:
        """What the keys of a session begin with, and those of no sibling (`s-1`, `s-10`).

        Raises:
            InvalidIdentifierError: The session id is not valid.
        """
        return f"{self._base}{validate_identifier(session_id, 'session_id')}/"

    @property
    def sessions_prefix(self) -> str:
        """What the keys of all sessions begin with: the prefix and its `/`, or `""`."""
        return self._base

    def session_id_of(self, key: str, delimiter: str) -> str | None:
        """The session whose name a key begins with.

        Args:
            key: The key, or what it begins with.
            delimiter: What must follow the name: `/scopes/` shows a session, `/` only a name.

        Returns:
            The session id; `None` where something else lies, as in a store that is nested there.
        """
        name, found, _ = key.removeprefix(self._base).partition(delimiter)
        return name if found and is_identifier(name) else None

    def place_in_any(self, key: str) -> ObjectPlace | None:
        """What an object is, of any session; `None` if it is not of the layout."""
        session_id = self.session_id_of(key, "/scopes/")
        if session_id is None:
            return None
        prefix = self.session_prefix(session_id)
        return self.place_of(key, prefix) if key.startswith(prefix) else None

    def stash_prefix(self, session_id: str) -> str:
        """What the keys begin with that the Strands SDKs keep for a session beside its snapshots.

        They put sessions into `session/` and stash into `context/`, under one prefix.
        """
        return f"{self.stashes_prefix}{validate_identifier(session_id, 'session_id')}/"

    @property
    def stashes_prefix(self) -> str:
        """What the keys begin with that the Strands SDKs keep for all sessions."""
        root = self._base.removesuffix("session/")
        if root and not root.endswith("/"):  # as of a prefix `my-session`
            root = self._base
        return f"{root}context/"

    def is_stash(self, key: str, session_id: str) -> bool:
        """Whether a key belongs to the stash of a session, and to no session.

        A session `context`, or one in a store with the prefix `context`, lies where stashes do.
        """
        prefix = self.stash_prefix(session_id)
        return key.startswith(prefix) and not (
            _OWN_OBJECT.match(key, len(prefix)) or _OWN_OBJECT.match(key, len(self.stashes_prefix))
        )

    def pattern(self, key: str) -> str:
        """Where a key of this layout, or the prefix of a listing, lies: without any id.

        Args:
            key: The key.

        Returns:
            The key without this layout's prefix, and with names instead of ids:
            `<session_id>/scopes/agent/<scope_id>/snapshots/snapshot_latest.json`. What is not of
            the layout ends with `…`. For a listing of all sessions it is `""`.
        """
        if key == self._base:
            return ""
        rest = key.removeprefix(self._base).partition("/")[2]
        found = _OWN_OBJECT.match(rest)
        if found is None:
            return f"<session_id>/{'' if not rest else '…'}"
        name = rest[found.end() :]
        if _HISTORY_OBJECT.fullmatch(name.removeprefix(_HISTORY)):
            name = f"{_HISTORY}snapshot_<snapshot_id>.json"
        elif pack := self.pack_in(name, _ARCHIVE):
            name = f"{_ARCHIVE}<pack>{name.removeprefix(pack.stem)}"
        elif name not in ("", _LATEST, _MANIFEST, _HISTORY, _ARCHIVE):
            name = "…"
        scope = rest.split("/", 2)[1]
        return f"<session_id>/scopes/{scope}/<scope_id>/snapshots/{name}"

    @staticmethod
    def snapshot_ids(keys: Iterable[str], history_prefix: str) -> list[str]:
        """The snapshot ids in keys of history, without whatever else lies there."""
        start = len(history_prefix)
        return [match[1] for key in keys if (match := _HISTORY_OBJECT.fullmatch(key, start))]

    @staticmethod
    def snapshot_id_in(key: str, history_prefix: str) -> str | None:
        """The id of the snapshot that a key in a history is of; `None` if it is of none."""
        match = _HISTORY_OBJECT.fullmatch(key, len(history_prefix))
        return match[1] if match else None

    @staticmethod
    def location_in(key: str, session_prefix: str) -> SnapshotLocation | None:
        """The location that a key of a session lies in.

        Args:
            key: A full key, or the beginning of one.
            session_prefix: What the session's keys begin with.

        Returns:
            The location; `None` if it lies in none.
        """
        found = _LOCATION.match(key, len(session_prefix))
        session_id = session_prefix.split("/")[-2]
        return SnapshotLocation(session_id, cast("Scope", found[1]), found[2]) if found else None

    @staticmethod
    def snapshot_id_of(key: str) -> str | None:
        """The id in the key of a snapshot in history; `None` for any other key."""
        match = _HISTORY_OBJECT.fullmatch(key, key.rfind("/") + 1)
        return match[1] if match else None

    @staticmethod
    def is_own(key: str, session_prefix: str) -> bool:
        """Whether a key shows that there is a session: it lies in a directory of its snapshots."""
        return _OWN_OBJECT.match(key, len(session_prefix)) is not None

    @staticmethod
    def place_of(key: str, session_prefix: str) -> ObjectPlace | None:
        """What an object of a session is; `None` if it is not of the layout."""
        found = _PLACE.fullmatch(key, len(session_prefix))
        if found is None:
            return None
        scope, scope_id, name = found.groups()
        location = SnapshotLocation(session_prefix.split("/")[-2], cast("Scope", scope), scope_id)
        if name == _LATEST:
            return ObjectPlace(location, "latest")
        if name == _MANIFEST:
            return ObjectPlace(location, "manifest")
        if name.startswith(_ARCHIVE):
            return ObjectPlace(location, "archive")
        if name.startswith(_DAMAGED):
            return ObjectPlace(location, "damaged")
        snapshot = _HISTORY_OBJECT.fullmatch(name.removeprefix(_HISTORY))
        if snapshot is None or not name.startswith(_HISTORY):
            return None
        return ObjectPlace(location, "history", snapshot[1])

    @staticmethod
    def is_nested_store(key: str, session_prefix: str) -> bool:
        """Whether a key under a session belongs to another store, nested under its name.

        A store with the prefix `tenant1` lies where the session `tenant1` of a store without a
        prefix does. Its sessions have `<session_id>/scopes/…` deeper than directly under the
        session, and so has the SDKs' stash (`context/<session_id>/scopes/…`). What else the SDKs
        keep beside sessions, memory and offloaded results, is known by the directory it lies in.
        """
        start = len(session_prefix)
        if _OWN_OBJECT.match(key, start):
            return False
        if session_prefix.split("/")[-2] in _SDK_NAMES:
            return True  # of a session with such a name, only what is of the layout
        return bool(_NESTED_OBJECT.search(key, start) or _SDK_DIRECTORY.match(key, start))

    def _snapshots(self, location: SnapshotLocation) -> str:
        if not isinstance(location, SnapshotLocation):
            raise TypeError(f"location must be a SnapshotLocation, not a {type(location).__name__}")
        return (
            f"{self._base}{location.session_id}/scopes/{location.scope}/"
            f"{location.scope_id}/snapshots/"
        )


def _level_of_the_caller() -> int:
    """How far up the stack the first line of code outside of this package is."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_globals["__name__"].startswith("snapstore."):
        frame, level = frame.f_back, level + 1
    return level
