"""Stores for the conformance suite of capabilities: one that passes, and many that must not."""

import asyncio
from contextlib import aclosing
from datetime import timedelta, timezone
from types import MappingProxyType

from snapstore.stores import (
    Finding,
    ObjectVersion,
    PreconditionFailedError,
    content_version,
)
from snapstore.stores.base import PAGE_SIZE
from snapstore.stores.capabilities import beginning_of
from snapstore.stores.memory import MemoryObjectStore

MAX_BYTES = 2**26


def mistakes_in(base):
    """All classes under one that are mistakes."""
    found = [broken for sub in base.__subclasses__() for broken in (sub, *mistakes_in(sub))]
    return [broken for broken in found if hasattr(broken, "caught_by")]


class CapableStore(MemoryObjectStore):
    """Every capability there is, in memory."""

    def __init__(self, objects):
        super().__init__()
        self.objects = objects

    async def try_put(self, key, data, **conditions):
        try:
            return await self.put(key, data, **conditions)
        except PreconditionFailedError as error:
            return Refused(error)

    async def sweep(self, prefix):
        """Find nothing: in memory no write is interrupted."""

    async def inspect(self, key):
        return [Finding("memory", "ok", "is there")]

    async def scan_versions(self, prefix, *, page_size=PAGE_SIZE):
        async with aclosing(self.scan_details(prefix, page_size=page_size)) as pages:
            async for page in pages:
                yield [ObjectVersion(d.key, "null", True, False, d.size, d.modified) for d in page]

    async def delete_versions(self, versions, *, bypass_governance=False):
        await self.delete([key for key, _ in versions])
        return {}

    async def lock_of(self, key, version_id):
        return None


class Refused:
    def __init__(self, error):
        self.error = error

    def resolve(self, found):
        raise self.error


class BrokenCapability(CapableStore):
    """Broken in one capability; `caught_by` names the tests of the suite that find out."""


class MetadataStaysBehind(BrokenCapability):
    caught_by = ("test_metadata_is_replaced_with_the_object",)

    async def put(self, key, data, **conditions):
        kept = self._metadata.get(key)
        version = await super().put(key, data, **conditions)
        if kept is not None:
            self._metadata[key] = kept
        return version


class ChangedDetails(BrokenCapability):
    def change(self, details):
        raise NotImplementedError

    async def scan_details(self, prefix, **where):
        async with aclosing(super().scan_details(prefix, **where)) as pages:
            async for page in pages:
                yield [self.change(details) for details in page]


class SizesAreRounded(ChangedDetails):
    caught_by = ("test_details_are_those_of_the_objects", "test_details_of_any_key")

    def change(self, details):
        return details._replace(size=details.size // 512 * 512)


class TimesAreLocal(ChangedDetails):
    caught_by = ("test_details_are_those_of_the_objects",)

    def change(self, details):
        return details._replace(modified=details.modified.astimezone(timezone(timedelta(hours=2))))


class DetailsAreOfTheFirstPut(ChangedDetails):
    caught_by = ("test_details_are_those_of_the_last_put",)

    def __init__(self, objects):
        super().__init__(objects)
        self.known = {}

    def change(self, details):
        return self.known.setdefault(details.key, details)


class DetailsIgnoreTheCursor(BrokenCapability):
    caught_by = ("test_details_come_as_keys_do",)

    async def scan_details(self, prefix, *, start_after=None, page_size=PAGE_SIZE):
        async with aclosing(super().scan_details(prefix, page_size=page_size)) as pages:
            async for page in pages:
                yield page


class TheDelimiterIsItsFirstCharacter(BrokenCapability):
    caught_by = ("test_beginnings_are_found_once_each",)

    async def scan_prefixes(self, prefix, *, delimiter, **where):
        pages = super().scan_prefixes(prefix, delimiter=delimiter[:1], **where)
        async with aclosing(pages):
            async for page in pages:
                yield page


class BeginningsComeAgain(BrokenCapability):
    caught_by = ("test_beginnings_are_found_once_each",)

    async def scan_prefixes(self, prefix, *, delimiter, start_after=None, page_size=PAGE_SIZE):
        async with aclosing(
            self.scan(prefix, start_after=start_after, page_size=page_size)
        ) as pages:
            async for page in pages:
                found = [beginning_of(key, prefix, delimiter) for key in page]
                yield sorted({beginning for beginning in found if beginning})


class TheCursorIsInclusive(BrokenCapability):
    caught_by = ("test_beginnings_start_after_a_key",)

    async def scan_prefixes(self, prefix, *, delimiter, start_after=None, page_size=PAGE_SIZE):
        whole = super().scan_prefixes(prefix, delimiter=delimiter, page_size=page_size)
        async with aclosing(whole) as pages:
            async for page in pages:
                yield [text for text in page if start_after is None or text >= start_after]


class EmptyDelimitersAreTaken(BrokenCapability):
    caught_by = ("test_an_empty_delimiter_is_refused",)

    async def scan_prefixes(self, prefix, *, delimiter, **where):
        pages = super().scan_prefixes(prefix, delimiter=delimiter or "/", **where)
        async with aclosing(pages):
            async for page in pages:
                yield page


class CopiesMetadata(BrokenCapability):
    caught_by = ("test_a_copy_has_its_own_metadata",)

    async def copy(self, source, key, *, metadata=MappingProxyType({})):
        kept = {**self._metadata.get(source, {}), **metadata}
        return await super().copy(source, key, metadata=kept)


class CopiesNothing(BrokenCapability):
    caught_by = ("test_a_copy_of_nothing_is_none",)

    async def copy(self, source, key, **metadata):
        if source not in self.objects:
            return await self.put(key, b"")
        return await super().copy(source, key, **metadata)


class CopiesOnlyToFreeKeys(BrokenCapability):
    caught_by = ("test_a_copy_replaces_what_is_there",)

    async def copy(self, source, key, **metadata):
        if key in self.objects:
            return content_version(self.objects[key])
        return await super().copy(source, key, **metadata)


class CopiesAreLinks(BrokenCapability):
    caught_by = ("test_a_copy_has_the_bytes_and_a_life_of_its_own",)

    def __init__(self, objects):
        super().__init__(objects)
        self.links = {}

    async def copy(self, source, key, **metadata):
        self.links[source] = key
        return await super().copy(source, key, **metadata)

    async def put(self, key, data, **conditions):
        if key in self.links:
            await super().put(self.links[key], data)
        return await super().put(key, data, **conditions)


class VersionsHaveNoSize(BrokenCapability):
    caught_by = ("test_each_object_has_one_current_version",)

    async def scan_versions(self, prefix, **where):
        async with aclosing(super().scan_versions(prefix, **where)) as pages:
            async for page in pages:
                yield [version._replace(size=0) for version in page]


class DeletesVersionsOfOtherKeys(BrokenCapability):
    caught_by = ("test_only_the_versions_named_are_deleted",)

    async def delete_versions(self, versions, *, bypass_governance=False):
        for start in {key.rpartition("/")[0] for key, _ in versions}:
            await self.delete([key for key in self.objects if key.startswith(start)])
        return {}


class AMissingVersionIsAFailure(BrokenCapability):
    caught_by = ("test_only_the_versions_named_are_deleted",)

    async def delete_versions(self, versions, *, bypass_governance=False):
        missing = {pair: "NoSuchVersion" for pair in versions if pair[0] not in self.objects}
        await super().delete_versions(versions)
        return missing


class IgnoresTheConditionOfDeletes(BrokenCapability):
    caught_by = (
        "test_another_version_is_not_deleted",
        "test_a_version_is_replaced_or_deleted_but_never_both",
    )

    async def delete_if_match(self, key, version):
        await self.delete([key])


class ChecksThenDeletes(BrokenCapability):
    caught_by = ("test_a_version_is_replaced_or_deleted_but_never_both",)

    async def delete_if_match(self, key, version):
        stored = await self.get(key, max_bytes=MAX_BYTES)
        await asyncio.sleep(0)
        if stored is None or stored.version != version:
            raise PreconditionFailedError("not so", key=key, is_missing=stored is None)
        await self.delete([key])

    async def put(self, key, data, **conditions):
        await asyncio.sleep(0)
        return await super().put(key, data, **conditions)


class AMissingObjectIsAtAnotherVersion(BrokenCapability):
    caught_by = ("test_a_missing_object_is_not_deleted",)

    async def delete_if_match(self, key, version):
        try:
            await super().delete_if_match(key, version)
        except PreconditionFailedError as error:
            error.is_missing = False
            raise


class DoesNotKnowWhatBecameOfADelete(BrokenCapability):
    caught_by = ("test_another_version_is_not_deleted",)

    async def delete_if_match(self, key, version):
        try:
            await super().delete_if_match(key, version)
        except PreconditionFailedError as error:
            error.outcome = "unknown"
            raise


class LeavesItsScratchObject(BrokenCapability):
    caught_by = ("test_it_is_known_whether_conditions_are_kept",)

    async def has_conditional_deletes(self, scratch_key):
        await self.put(scratch_key, b"")
        return True


class DeletesAlthoughConditionsAreIgnored(BrokenCapability):
    caught_by = ("test_it_is_known_whether_conditions_are_kept",)

    async def has_conditional_deletes(self, scratch_key):
        return False


class ARefusedWriteIsTakenForWritten(BrokenCapability):
    caught_by = ("test_a_refused_write_is_resolved_by_what_is_read",)

    async def try_put(self, key, data, **conditions):
        refused = await super().try_put(key, data, **conditions)
        if isinstance(refused, Refused):
            refused.resolve = lambda found: found
        return refused


class SweepsObjects(BrokenCapability):
    caught_by = ("test_a_sweep_leaves_objects_alone",)

    async def sweep(self, prefix):
        await self.delete([key for key in self.objects if key.startswith(prefix)])


class AnInspectionLeavesItsObject(BrokenCapability):
    caught_by = ("test_an_inspection_leaves_objects_alone",)

    async def inspect(self, key):
        await self.put(key, b"")
        return await super().inspect(key)
