"""A large snapshot is saved in steps, as it was at the call, and in its turn."""

import asyncio
import json

import pytest

from snapstore import MemoryStorage, Snapshot, SnapshotEncodeError, SnapshotLocation

LOCATION = SnapshotLocation.agent("session", "agent")


def large(**fields):
    """The data of a snapshot that takes milliseconds to encode."""
    rows = [{"n": number, "text": "x" * 50, "half": number / 2} for number in range(10_000)]
    return {"rows": rows, **fields}


KINDS = {
    "in one step": {},
    "by way of a copy": {"text": "\ud83d"},
}


async def save(storage, data):
    return await storage.save_snapshot(
        location=LOCATION, snapshot=Snapshot.new(data), is_latest=True
    )


async def load(storage):
    return (await storage.load_snapshot(location=LOCATION)).data


async def turns_during(work):
    """How often the event loop runs while a coroutine does."""
    turns = 0

    async def count():
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(count())
    await asyncio.sleep(0)
    turns = 0
    try:
        return await work, turns
    finally:
        counting.cancel()


@pytest.mark.parametrize("fields", KINDS.values(), ids=KINDS)
async def test_the_event_loop_runs_between_the_steps_of_a_large_save(fields):
    async with MemoryStorage() as storage:
        _, without = await turns_during(save(storage, {"text": "small"}))
        _, turns = await turns_during(save(storage, large(**fields)))

    assert turns >= without + 2


@pytest.mark.parametrize("fields", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("operation", ["save_snapshot", "checkpoint", "update_latest"])
async def test_what_is_saved_is_what_it_was_at_the_call(operation, fields):
    data = large(**fields, state={"step": "before"})
    expected = json.loads(json.dumps(data))
    changed = []

    def change():
        data["state"]["step"] = float("nan")
        data["rows"].clear()
        changed.append(True)

    def snapshot(_=None):
        # It is changed as soon as the event loop runs.
        asyncio.get_running_loop().call_soon(change)
        return Snapshot.new(data)

    async with MemoryStorage() as storage:
        if operation == "save_snapshot":
            await storage.save_snapshot(location=LOCATION, snapshot=snapshot(), is_latest=True)
        elif operation == "checkpoint":
            await storage.checkpoint(location=LOCATION, snapshot=snapshot())
        else:
            await storage.update_latest(location=LOCATION, update=snapshot)
        assert changed
        assert await load(storage) == expected


@pytest.mark.parametrize("fields", KINDS.values(), ids=KINDS)
async def test_a_small_save_does_not_overtake_a_large_one(fields):
    async with MemoryStorage() as storage:
        await asyncio.gather(
            save(storage, large(**fields)),
            save(storage, {"number": 1}),
            save(storage, large(**fields, number=2)),
            save(storage, {"number": 3}),
        )
        assert await load(storage) == {"number": 3}


async def test_a_save_elsewhere_does_not_wait_for_a_large_one():
    ended = []

    async def save_at(session, data):
        await storage.save_snapshot(
            location=SnapshotLocation.agent(session, "agent"),
            snapshot=Snapshot.new(data),
            is_latest=True,
        )
        ended.append(session)

    async with MemoryStorage() as storage:
        await asyncio.gather(save_at("large", large()), save_at("small", {}))

    assert ended == ["small", "large"]


def tuples(levels):
    value = ()
    for _ in range(levels):
        value = (value,)
    return value


@pytest.mark.parametrize("levels", [200, 5_000])
async def test_tuples_too_deep_in_a_large_snapshot_are_refused_with_their_path(levels):
    data = large(deep=tuples(levels))

    async with MemoryStorage() as storage:
        await save(storage, {"number": 1})
        with pytest.raises(SnapshotEncodeError, match=r"^data\.deep\[0\].*200 objects and lists"):
            await save(storage, data)
        task = asyncio.create_task(save(storage, data))
        await asyncio.sleep(0)
        del data["deep"]
        with pytest.raises(SnapshotEncodeError, match="200 objects and lists deep"):
            await task
        assert await load(storage) == {"number": 1}


async def test_a_set_in_a_large_snapshot_is_refused_with_its_path():
    async with MemoryStorage() as storage:
        with pytest.raises(SnapshotEncodeError, match=r"^data\.bad\[1\]: a set$"):
            await save(storage, large(bad=[1, {2}]))


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("fields", KINDS.values(), ids=KINDS)
async def test_a_large_save_that_is_cancelled_lets_the_next_one_go(turns, fields):
    async with MemoryStorage() as storage:
        cancelled = asyncio.create_task(save(storage, large(**fields)))
        waiting = asyncio.create_task(save(storage, {"number": 1}))
        last = asyncio.create_task(save(storage, {"number": 2}))
        for _ in range(turns):
            await asyncio.sleep(0)
        cancelled.cancel()
        waiting.cancel()
        await last

        assert await load(storage) == {"number": 2}
