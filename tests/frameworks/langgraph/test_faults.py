"""Every request of the saver lost, refused or never answered, at every place."""

import asyncio
from contextlib import contextmanager

import pytest

import snapstore
from checkpoints import checkpoint_with, config_of, id_of, put_values, values_of
from snapstore.integrations.langgraph import SnapstoreSaver
from snapstore.stores import MemoryObjectStore
from snapstore.testing import FaultyObjectStore, StoreFault

LARGE = 20_000
FAULTS = [
    StoreFault(),
    StoreFault(applied=True),
    StoreFault(stall=True),
    StoreFault(applied=True, stall=True),
    StoreFault(error=snapstore.AccessDeniedError),
    StoreFault(error=snapstore.BucketNotFoundError),
]


class Fault:
    """Fails the call of a number, counted from when it is armed."""

    def __init__(self, number, fault):
        self.left, self.fault, self.was_met = number, fault, False

    async def __call__(self, call):
        self.left -= 1
        if self.left != -1:
            return None
        self.was_met = True
        return self.fault


def large(name):
    return f"{name} " * LARGE


async def seed(memory, on_conflict, **metadata):
    """A thread of three checkpoints, with values and writes; returns the config of the last."""
    async with SnapstoreSaver(memory, on_conflict=on_conflict) as saver:
        config = config_of()
        for step in range(3):
            config = await put_values(
                saver, config, {"ch": large(step), "step": step}, step=step, **metadata
            )
            await saver.aput_writes(config, [("ch", step)], "task")
        return config


async def everything(memory):
    """What is stored, as a saver reads it that nothing disturbs."""
    async with SnapstoreSaver(memory) as saver:
        return [
            (one.config, one.checkpoint, one.metadata, one.parent_config, one.pending_writes)
            async for one in saver.alist(None)
        ]


def next_id(config):
    """An id that comes next after that of a checkpoint."""
    return f"{id_of(config)[:-12]}{'f' * 12}"


async def put_next(saver, config):
    values = {"ch": large("next"), "step": 3}
    checkpoint = checkpoint_with(values, {"ch": 2, "step": 2}) | {"id": next_id(config)}
    return await saver.aput(config, checkpoint, {"source": "loop"}, {"ch": 2, "step": 2})


WORK = {
    "get": lambda saver, config: saver.aget_tuple(config_of()),
    "list": lambda saver, config: listed(saver),
    "put": put_next,
    "writes": lambda saver, config: saver.aput_writes(config, [("ch", "new")], "task-2"),
    "delete": lambda saver, config: saver.adelete_thread("t"),
    "runs": lambda saver, config: saver.adelete_for_runs(["nobody", "run"]),
    "prune": lambda saver, config: saver.aprune(["t"]),
    "copy": lambda saver, config: saver.acopy_thread("t", "copied"),
    "history": lambda saver, config: saver.aget_delta_channel_history(
        config=config, channels=["ch", "other"]
    ),
}


async def listed(saver):
    return [one async for one in saver.alist(config_of())]


@pytest.mark.parametrize("on_conflict", ["ignore", "raise"])
@pytest.mark.parametrize("fault", FAULTS, ids=str)
@pytest.mark.parametrize("name", WORK)
async def test_what_fails_raises_and_may_be_called_again(name, fault, on_conflict):
    reference = MemoryObjectStore()
    config = await seed(reference, on_conflict)
    before = await everything(reference)
    untouched = MemoryObjectStore()
    untouched.objects.update(reference.objects)
    async with SnapstoreSaver(reference, on_conflict=on_conflict) as saver:
        expected = await WORK[name](saver, config)
    after = await everything(reference)

    number, was_met = 0, True
    while was_met:
        memory = MemoryObjectStore()
        memory.objects.update(untouched.objects)
        faulty = FaultyObjectStore(memory)
        async with SnapstoreSaver(faulty, on_conflict=on_conflict, timeout=0.2) as saver:
            armed = faulty.fault = Fault(number, fault)
            failure = None
            try:
                result = await WORK[name](saver, config)
            except snapstore.StorageError as error:
                failure = error
            assert armed.was_met is (failure is not None)
            if failure is not None:
                assert "next next" not in str(failure)
                # A reader now finds what was stored before, whole, or what is new.
                now = await everything(memory)
                assert_each_is_of_either(now, before, after)
                # The same call again does it.
                result = await WORK[name](saver, config)
            was_met = armed.was_met
        assert result == expected
        assert await everything(memory) == after
        number += 1
    assert number > 1


def assert_each_is_of_either(now, before, after):
    known = [*before, *after]
    for one in now:
        assert any(one[:4] == other[:4] for other in known)


@pytest.mark.parametrize("fault", FAULTS[:4], ids=str)
async def test_a_writer_that_ends_at_any_call_leaves_a_thread_that_goes_on(fault):
    """Its turn is there or is not; the next run goes on from what is there."""
    number, was_met = 0, True
    while was_met:
        memory = MemoryObjectStore()
        config = await seed(memory, "raise")
        faulty = FaultyObjectStore(memory)
        async with SnapstoreSaver(faulty, on_conflict="raise", timeout=0.2) as saver:
            armed = faulty.fault = Fault(number, fault)
            try:
                await put_next(saver, config)
            except snapstore.StorageError:
                assert armed.was_met
            was_met = armed.was_met
        async with SnapstoreSaver(memory, on_conflict="raise") as other:
            found = await other.aget_tuple(config_of())
            assert id_of(found.config) in (id_of(config), next_id(config))
            if not was_met:
                assert id_of(found.config) == next_id(config)
            child = await put_values(other, found.config, {"ch": large("child")}, step=9)
            found = await other.aget_tuple(config_of())
            assert id_of(found.config) == id_of(child)
            assert values_of(found) == {"ch": large("child")}
            assert id_of(found.parent_config) in {id_of(one.config) for one in await listed(other)}
        number += 1


async def test_a_call_that_is_cancelled_leaves_a_saver_that_works():
    memory = MemoryObjectStore()
    config = await seed(memory, "raise")
    faulty = FaultyObjectStore(memory)
    async with SnapstoreSaver(faulty, on_conflict="raise") as saver:
        for name, work in WORK.items():
            if name in ("delete", "prune"):
                continue
            faulty.fault = Fault(0, StoreFault(stall=True))
            task = asyncio.ensure_future(work(saver, config))
            while not faulty.fault.was_met:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await work(saver, config)


async def test_a_delete_that_was_not_confirmed_says_so():
    memory = MemoryObjectStore()
    await seed(memory, "ignore")
    [key] = [key for key in memory.objects if "/c/" in key][:1]
    faulty = FaultyObjectStore(memory)
    async with SnapstoreSaver(faulty) as saver:
        faulty.fault = lambda call: refuse(call, key)
        with pytest.raises(snapstore.PartialDeleteError) as caught:
            await saver.adelete_thread("t")
        assert caught.value.failed == {key: "AccessDenied"}
        faulty.fault = Fault(-1, None)
        await saver.adelete_thread("t")
    assert not memory.objects


async def refuse(call, key):
    return StoreFault(failed={key: "AccessDenied"}) if call.operation == "delete" else None


@contextmanager
def collect_conflicts(found):
    try:
        yield
    except snapstore.SnapshotConflictError as error:
        found.append(str(error))


class Before:
    """Does something before the call of a number."""

    def __init__(self, number, do):
        self.left, self.do, self.was_met = number, do, False

    async def __call__(self, call):
        self.left -= 1
        if self.left == -1:
            self.was_met = True
            await self.do()


async def put_and_prune(other):
    """Another run goes on, and what it went on from is pruned."""
    config = (await other.aget_tuple(config_of())).config
    await put_values(other, config, {"ch": large("newest"), "step": 9}, step=9)
    await other.aprune(["t"])


async def put_and_delete_runs(other):
    """Another run goes on, and all before it are deleted."""
    config = (await other.aget_tuple(config_of())).config
    await put_values(other, config, {"ch": large("newest"), "step": 9}, step=9, run_id="new")
    await other.adelete_for_runs(["old"])


@pytest.mark.parametrize("on_conflict", ["ignore", "raise"])
@pytest.mark.parametrize("meanwhile", [put_and_prune, put_and_delete_runs])
@pytest.mark.parametrize("name", ["get", "list", "history"])
async def test_a_read_beside_a_prune_at_any_request_is_whole(name, meanwhile, on_conflict):
    number, was_met = 0, True
    while was_met:
        memory = MemoryObjectStore()
        config = await seed(memory, on_conflict, run_id="old")
        faulty = FaultyObjectStore(memory)
        one = SnapstoreSaver(faulty, on_conflict=on_conflict)
        async with one as saver, SnapstoreSaver(memory, on_conflict=on_conflict) as other:
            faulty.fault = Before(number, lambda: meanwhile(other))
            result = []
            try:
                result = await WORK[name](saver, config)
            except snapstore.StorageUnavailableError:
                assert name == "history"  # it can't be told from one that never had this value
            was_met = faulty.fault.was_met
            if name != "history":
                for found in [result] if name == "get" else result:
                    values = values_of(found)
                    assert values["ch"] == large(
                        "newest" if values["step"] == 9 else values["step"]
                    )
            if name == "get":
                assert result is not None
        number += 1
    assert number > 1


@pytest.mark.parametrize("on_conflict", ["ignore", "raise"])
@pytest.mark.parametrize("maintenance", ["prune", "runs", "copy"])
async def test_a_put_beside_maintenance_at_any_request_leaves_a_whole_thread(
    maintenance, on_conflict
):
    """A run that goes on from the newest checkpoint, before each request of the maintenance."""
    number, was_met = 0, True
    while was_met:
        memory = MemoryObjectStore()
        await seed(memory, on_conflict, run_id="old")
        faulty = FaultyObjectStore(memory)
        one = SnapstoreSaver(faulty, on_conflict=on_conflict)
        async with one as saver, SnapstoreSaver(memory, on_conflict=on_conflict) as other:
            parent = (await other.aget_tuple(config_of())).config

            async def go_on():
                nonlocal was_stored
                values = {"ch": f"{large(2)} more", "step": 3}
                config = await put_values(other, parent, values, step=3, run_id="new")  # noqa: B023
                await other.aput_writes(config, [("ch", 3)], "task")
                was_stored = True

            was_stored, refused = False, []
            armed = faulty.fault = Before(number, go_on)
            with collect_conflicts(refused):
                match maintenance:
                    case "prune":
                        await saver.aprune(["t"])
                    case "runs":
                        await saver.adelete_for_runs(["old"])
                    case _:
                        await saver.acopy_thread("t", "copied")
            if refused:
                assert (maintenance, on_conflict) == ("runs", "raise")
                assert "was deleted" in refused[0]
            was_met = armed.was_met
            faulty.fault = Before(-1, None)
            for reader in (saver, other):
                found = await reader.aget_tuple(config_of())
                if was_stored:
                    assert values_of(found) == {"ch": f"{large(2)} more", "step": 3}
                    assert [write[2] for write in found.pending_writes] == [3]
                for listed_one in [one async for one in reader.alist(None)]:
                    values = values_of(listed_one)
                    assert values["ch"].startswith(large(min(values["step"], 2)))
        number += 1
    assert number > 3


async def test_a_writer_whose_clock_is_behind_is_refused_instead_of_overlooked():
    memory = MemoryObjectStore()
    config = await seed(memory, "raise")
    async with SnapstoreSaver(memory, on_conflict="raise") as saver:
        earlier = checkpoint_with({}) | {"id": f"0{id_of(config)[1:]}"}
        with pytest.raises(snapstore.SnapshotConflictError, match="clock"):
            await saver.aput(config, earlier, {"source": "loop"}, {})
        assert id_of((await saver.aget_tuple(config_of())).config) == id_of(config)
