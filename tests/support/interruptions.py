"""Operations that are killed, or met by somebody else, at calls of the store that they make.

At each of them with `--full`, and else at a sample.
"""

import re
from contextlib import asynccontextmanager

from sampling import steps
from snapstore import ObjectSnapshotStorage, StorageError
from snapstore.encoding.padding import strip_padding
from snapstore.stores import MemoryObjectStore
from snapstore.testing import FaultyObjectStore, StoreFault

UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
TIME = re.compile(rb'"(updatedAt|createdAt)":"[^"]*"')


async def nothing(_):
    """Let every call pass."""


@asynccontextmanager
async def storage_over(store):
    """A storage over a store that can be told to fail, and the same store without faults."""
    faulty = FaultyObjectStore(store)
    async with ObjectSnapshotStorage(faulty) as storage, ObjectSnapshotStorage(store) as other:
        yield faulty, storage, other


def state(store):
    """All objects, without what differs from run to run: padding, times, and names made up."""
    found = {}
    for key, body in store.objects.items():
        name = UUID7.sub("<id>", key, count=1) if "/damaged/" in key else key
        found[name] = TIME.sub(b"", strip_padding(bytes(body)))
    return found


async def killed_at_each_call(prepare, run, *, store=MemoryObjectStore, ignoring=lambda key: False):
    """Kill an operation at each of its calls, make it again, and compare.

    A process that is killed makes no further call: from the call on, nothing reaches the store. The
    call itself has been applied or not.

    Args:
        prepare: Writes what is there before. It is awaited with a storage, and must always write
            the same.
        run: The operation. It is awaited with a storage, and with whether it was killed before.
        store: Makes a store.
        ignoring: Tells keys that a crash may leave.

    Returns:
        About how many calls it makes.
    """

    async def end(fails_at, *, applied):
        calls = 0

        async def fault(_):
            nonlocal calls
            calls += 1
            return StoreFault(applied=applied and calls == fails_at) if calls >= fails_at else None

        inner = store()
        async with storage_over(inner) as (faulty, storage, other):
            await prepare(other)
            faulty.fault = fault if fails_at else nothing
            was_killed = False
            try:
                await run(storage, again=False)
            except StorageError:
                was_killed = True
                faulty.fault = nothing
                await run(storage, again=True)
        kept = {key: body for key, body in state(inner).items() if not ignoring(key)}
        return kept, was_killed

    expected, _ = await end(0, applied=False)
    for applied in (False, True):
        for fails_at in steps():
            found, was_killed = await end(fails_at, applied=applied)
            assert found.keys() == expected.keys(), (fails_at, applied)
            assert found == expected, (fails_at, applied)
            if not was_killed:
                break
    return fails_at - 1


async def met_at_each_call(prepare, run, meet, check, *, store=MemoryObjectStore):
    """Let somebody else in before each call of an operation.

    Args:
        prepare: As in `killed_at_each_call`.
        run: The operation, awaited with a storage.
        meet: What the other one does, awaited with a storage over the same store.
        check: Awaited at the end with a storage, and with what `meet` has returned.
        store: Makes a store.

    Returns:
        How many calls there were.
    """
    for step in steps():
        calls, told = 0, []

        async def fault(_):
            nonlocal calls
            calls += 1
            if calls == step:  # noqa: B023
                told.append(await meet(other))  # noqa: B023

        inner = store()
        async with storage_over(inner) as (faulty, storage, other):
            await prepare(other)
            faulty.fault = fault
            await run(storage)
            faulty.fault = nothing
            if not told:
                break
            await check(other, told[0])
    return calls
