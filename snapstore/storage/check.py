"""What a store can do, found out by trying: each probe writes under a prefix of its own.

A server that accepts a condition and ignores it can't be told from one that keeps it by its replies
to well-behaved requests. So the probes misbehave: they write twice what may be written once, and
many at the same time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Final

import msgspec

from snapstore.errors import (
    AccessDeniedError,
    BucketNotFoundError,
    StorageError,
    UnsupportedOperationError,
    shown,
)
from snapstore.stores.base import Finding, PreconditionFailedError, Version
from snapstore.stores.capabilities import InspectableStore, capability
from snapstore.stores.managed import ManagedStore

__all__ = ["CHECK_SESSION", "CheckReport", "run_check"]

CHECK_SESSION: Final = "snapstore-check-"
"""What the ids of the sessions begin with that checks work in."""

_RACERS: Final = 5
_RACES: Final = 2
_MAX_BYTES: Final = 1024


class CheckReport(msgspec.Struct, frozen=True):
    """What `check` found out; `str()` of it is a table to print.

    Args:
        findings: In the order in which they were found.

    Example:
        ::

            report = await storage.check()
            if not report.ok:
                raise SystemExit(str(report))
    """

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether all that snapstore promises holds here, as far as it could be tried."""
        return all(finding.status != "failed" for finding in self.findings)

    def __getitem__(self, about: str) -> Finding:
        """The finding about one thing.

        Raises:
            KeyError: There is none.
        """
        for finding in self.findings:
            if finding.check == about:
                return finding
        raise KeyError(about)

    def __str__(self) -> str:
        width = max(len(finding.check) for finding in self.findings)
        return "\n".join(
            f"{finding.status:<8} {finding.check:<{width}}  {finding.message}"
            for finding in self.findings
        )


async def run_check(objects: ManagedStore, prefix: str, *, read_only: bool) -> CheckReport:
    """Check a store.

    Args:
        objects: The store.
        prefix: Where there is nothing, and the check may write.
        read_only: Whether it writes nothing.
    """
    async with aclosing(_Probes(objects, prefix).run(read_only=read_only)) as found:
        findings = [finding async for finding in found]
    if read_only:
        return CheckReport(tuple(findings))
    inspectable = capability(objects.store, InspectableStore)
    if inspectable is not None:
        key = f"{prefix}inspected.json"
        try:
            findings += await objects.run("check", prefix, lambda: inspectable.inspect(key))
        except StorageError as error:
            findings.append(Finding("inspection", "unknown", str(error)))
    return CheckReport(tuple(findings))


class _Probes:
    """The probes of one check, each under a deadline."""

    def __init__(self, objects: ManagedStore, prefix: str) -> None:
        self._objects = objects
        self._store = objects.store
        self._prefix = prefix
        self._written: dict[str, None] = {}

    async def run(self, *, read_only: bool) -> AsyncGenerator[Finding, None]:
        """Run them one after the other. The last one removes what the others may have written."""
        writable = True
        read = self._read_missing if read_only else self._read
        scan = self._list_any if read_only else self._list
        for about, probe, otherwise in (
            ("write", self._write, "nothing can be saved"),
            ("read", read, "nothing can be loaded"),
            ("list", scan, "history can't be listed, nor a session deleted"),
            ("create-only", self._create, "saving to history and checkpoints fail"),
            ("compare-and-swap", self._swap, "if_match and update_latest fail"),
            ("delete", self._delete, "sessions can't be deleted"),
        ):
            if read_only and about not in ("read", "list"):
                yield Finding(about, "unknown", "not tried, since nothing may be written")
                continue
            if not (writable or (self._written and about == "delete")):
                yield Finding(about, "unknown", "not tried, since nothing can be written")
                continue
            try:
                yield Finding(about, "ok", await self._in_time(probe))
            except _UnprovenError as unproven:
                yield Finding(about, "unknown", str(unproven))
            except (_BrokenPromiseError, StorageError) as error:
                broken = isinstance(error, _BrokenPromiseError)
                words = str(error) if broken else f"{otherwise}: {error}"
                if about == "delete":
                    words += f"; {await self._clean_up()}"
                writable = broken or about != "write"
                yield Finding(about, "failed", shown(words, 2_000))

    async def _in_time(self, probe: Callable[[], Awaitable[str]]) -> str:
        return await self._objects.run("check", self._prefix, probe)

    async def _write(self) -> str:
        for name in ("1", "2"):
            await self._put(name, name)
        return "objects can be written"

    async def _read(self) -> str:
        found = await self._store.get(f"{self._prefix}1.json", max_bytes=_MAX_BYTES)
        if found is None or found.data != _body("1"):
            raise _BrokenPromiseError("what was written is not what is read")
        await self._read_missing()
        return "objects can be read, and missing ones are told from forbidden ones"

    async def _read_missing(self) -> str:
        try:
            found = await self._store.get(f"{self._prefix}missing.json", max_bytes=_MAX_BYTES)
        except AccessDeniedError as error:
            raise _BrokenPromiseError(
                "a missing object can't be told from a forbidden one, so loading what does not "
                f"exist is an error; allow s3:ListBucket: {error}"
            ) from None
        if found is not None:
            raise _BrokenPromiseError("an object that was never written is read")
        return "missing objects are told from forbidden ones; none that exists was read"

    async def _list_any(self) -> str:
        async with aclosing(self._store.scan(self._prefix, page_size=1)) as pages:
            async for _ in pages:
                break
        return "keys can be listed; whether all come, and in order, was not tried"

    async def _list(self) -> str:
        one, two = (f"{self._prefix}{name}.json" for name in ("1", "2"))
        if await self._scan(None) != [one, two]:
            raise _BrokenPromiseError(
                "a listing does not show in order what was just written: history may look "
                "incomplete, and sessions may not be deleted as a whole"
            )
        if await self._scan(one) != [two]:
            raise _BrokenPromiseError("start_after is ignored: pages of history repeat or fail")
        return "listings are complete, in order, and begin where they are asked to"

    async def _create(self) -> str:
        await self._put("created", "1", create=True)
        if await self._wins("created", create=True):
            raise _BrokenPromiseError(
                "accepted, but not enforced: history can be overwritten, and two workers that "
                "create the latest snapshot overwrite each other"
            )
        for race in range(_RACES):
            winners = await self._race(f"create-{race}", create=True)
            if winners > 1:
                raise _BrokenPromiseError(
                    f"enforced, but not atomic: of {_RACERS} writers at once {winners} won, so "
                    "history can be overwritten in a race"
                )
        return (
            "a create never replaces an existing object, also when five writers race: history is "
            "immutable"
        )

    async def _swap(self) -> str:
        first = await self._put("swapped", "1")
        if await self._wins("missing", over=first):
            raise _BrokenPromiseError("accepted, but not enforced where the object is missing")
        second = await self._put("swapped", "2", over=first)
        if await self._wins("swapped", over=first):
            raise _BrokenPromiseError(
                "accepted, but not enforced: if_match and update_latest lose updates"
            )
        for race in range(_RACES):
            current = await self._put(f"swap-{race}", "current")
            winners = await self._race(f"swap-{race}", over=current)
            if winners > 1:
                raise _BrokenPromiseError(
                    f"enforced, but not atomic: of {_RACERS} writers at once {winners} won, so "
                    "if_match and update_latest can lose updates in a race"
                )
        await self._put("swapped", "3", over=second)
        return (
            "a write with if_match replaces only the version that was read, also when five writers "
            "race: no update is lost"
        )

    async def _delete(self) -> str:
        failed = await self._store.delete(list(self._written))
        if failed:
            key, code = next(iter(failed.items()))
            raise _BrokenPromiseError(f"{len(failed)} objects were not deleted: {key}: {code}")
        for key in self._written:
            if await self._store.get(key, max_bytes=_MAX_BYTES) is not None:
                raise _BrokenPromiseError(f"{key} was confirmed as deleted, and can still be read")
        return "what is deleted is gone; so is all that this check has written"

    async def _clean_up(self) -> str:
        """Delete one by one what could not be deleted together; says what became of it."""
        left = 0
        for key in self._written:

            async def delete(key: str = key) -> str:
                return "".join((await self._store.delete([key])).values())

            try:
                left += bool(await self._in_time(delete))
            except StorageError:
                left += 1
        if left:
            return f"up to {left} objects of this check stay under {self._prefix}"
        return "what this check has written was deleted one by one"

    async def _put(
        self, name: str, text: str, *, over: Version | None = None, create: bool = False
    ) -> Version:
        key = f"{self._prefix}{name}.json"
        known = key in self._written
        self._written[key] = None
        try:
            return await self._store.put(key, _body(text), if_match=over, if_none_match=create)
        except (AccessDeniedError, BucketNotFoundError):
            if not known:
                del self._written[key]
            raise

    async def _wins(
        self, name: str, text: str = "again", *, over: Version | None = None, create: bool = False
    ) -> bool:
        """Whether a conditional write succeeds."""
        try:
            await self._put(name, text, over=over, create=create)
        except PreconditionFailedError:
            return False
        return True

    async def _race(self, name: str, *, over: Version | None = None, create: bool = False) -> int:
        """How many of several conditional writes at once succeed."""
        writes = [
            self._wins(name, f"racer {racer}", over=over, create=create) for racer in range(_RACERS)
        ]
        # A server may also answer a loser that it is busy, or not at all.
        ended = await asyncio.gather(*writes, return_exceptions=True)
        for end in ended:
            if isinstance(end, UnsupportedOperationError) or not isinstance(
                end, bool | StorageError
            ):
                raise end
        winners = sum(end is True for end in ended)
        if not winners:
            raise _UnprovenError(
                f"of {_RACERS} writers at once none got through, for other reasons"
            )
        return winners

    async def _scan(self, start_after: str | None) -> list[str]:
        pages = self._store.scan(self._prefix, start_after=start_after, page_size=1)
        async with aclosing(pages):
            return [key async for page in pages for key in page]


class _BrokenPromiseError(Exception):
    """What a store did shows that a promise does not hold; in words."""


class _UnprovenError(Exception):
    """What a store did shows neither that a promise holds nor that it does not; in words."""


def _body(text: str) -> bytes:
    return msgspec.json.encode({"snapstore check": text})
