"""What the saver stores, with how many requests and bytes, and what it refuses."""

import asyncio
import copy
import random
import uuid
from dataclasses import dataclass

import pytest
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

import snapstore
from checkpoints import checkpoint_with, config_of, id_of, ids_of, put_values, values_of
from counting import CountingStore
from snapstore.integrations.langgraph import SnapstoreSaver
from snapstore.stores import FileObjectStore, ManagedStore, MemoryObjectStore

LARGE = 20_000
ODD = ["", ".", "..", "a/b", "ä\0\n", "x" * 2000, "\ud83d", "%2F", "~", "user@example.com", "a|b:c"]


def message(rng):
    """A message of some 500 bytes: words, and an id that is like no other."""
    words = [rng.choice(WORDS) for _ in range(60)]
    return {"id": str(uuid.UUID(int=rng.getrandbits(128))), "role": "user", "text": " ".join(words)}


_rng = random.Random(7)
WORDS = [
    "".join(_rng.choices("abcdefghijklmnopqrstuvwxyz", k=_rng.randint(2, 9))) for _ in range(2000)
]


def operations(store):
    return [call.operation for call in store.calls]


async def test_a_turn_and_a_resume_take_few_requests(memory, counted):
    saver, store = counted
    config = await put_values(saver, config_of(), {"small": 1})
    assert operations(store) == ["put"]
    store.calls.clear()
    large = {name: random.Random(name).randbytes(LARGE) for name in ("a", "b", "c")}
    config = await put_values(saver, config, {**large, "small": 2})
    assert operations(store) == ["put"] * 4
    await saver.aput_writes(config, [("a", 1)], "task-1")
    await saver.aput_writes(config, [("b", 1)], "task-2")
    await saver.aclose()

    # In another process: a listing of one key, the checkpoint and a listing of its writes, and
    # one request for each large value and each object of writes.
    await put_history(memory, 50)
    store.calls.clear()
    async with SnapstoreSaver(store) as other:
        found = await other.aget_tuple(config_of())
        assert values_of(found) == {**large, "small": 2}
        assert sorted(operations(store)) == ["get"] * 6 + ["scan"] * 2
        assert store.calls[0].operation == "scan"
        assert {call.operation for call in store.calls[1:3]} == {"get", "scan"}
        # What has not changed is not written again.
        store.calls.clear()
        await put_values(other, found.config, {**large, "small": 3}, new=["small"])
        assert operations(store) == ["put"]


async def put_history(memory, count):
    """Older checkpoints of another thread and namespace, which no request may depend on."""
    async with SnapstoreSaver(memory) as saver:
        config = config_of("t", "inner")
        for step in range(count):
            config = await put_values(saver, config, {"x": step}, step=step)


@pytest.mark.parametrize("is_shared", [False, True])
async def test_a_growing_channel_takes_a_tenth_of_the_bytes(make_store, prefix, is_shared):
    rng = random.Random(1)
    plain, history, versions = 0, [], []
    async with ManagedStore(make_store()) as store:
        shared = SnapstoreSaver(store, prefix=prefix)
        config, version = config_of(), None
        for step in range(300):
            saver = shared
            if not is_shared:  # each turn in another process, which has read the thread
                saver = SnapstoreSaver(store, prefix=prefix)
                await saver.aget_tuple(config_of())
            history.append(message(rng))
            version = saver.get_next_version(version, None)
            values = {"messages": [*history], "step": step}
            versions = {"messages": version, "step": step}
            checkpoint = checkpoint_with(values, versions)
            plain += len(saver.serde.dumps_typed(checkpoint)[1])
            metadata = {"source": "loop", "step": step, "parents": {}}
            config = await saver.aput(config, checkpoint, metadata, versions)
        stored = 0
        async for page in store.scan(prefix):
            for key in page:
                stored += len((await store.get(key, max_bytes=2**20)).data)
        assert stored * 10 < plain

        saver = SnapstoreSaver(store, prefix=prefix)
        for limit in (1, None):
            found = [one async for one in saver.alist(config_of(), limit=limit)]
            assert len(found) == limit or 300
            for one in found:
                step = one.metadata["step"]
                assert values_of(one) == {"messages": history[: step + 1], "step": step}
        await saver.aprune(["t"])
        fresh = SnapstoreSaver(store, prefix=prefix)
        found = [one async for one in fresh.alist(config_of())]
        assert [values_of(one) for one in found] == [{"messages": history, "step": 299}]
        left = [key async for page in store.scan(prefix) for key in page]
        assert len(left) == 2  # the checkpoint, and the base of its messages
        # The thread goes on.
        history.append(message(rng))
        await put_values(fresh, found[0].config, {"messages": history, "step": 300})
        assert values_of(await shared.aget_tuple(config_of())) == {"messages": history, "step": 300}


async def test_a_large_value_that_does_not_change_is_stored_once(memory, counted):
    saver, _ = counted
    large = random.Random(3).randbytes(LARGE)
    config = config_of()
    for step in range(20):
        new = ["large", "step"] if step == 0 else ["step"]
        config = await put_values(saver, config, {"large": large, "step": step}, new=new)
    assert sum(map(len, memory.objects.values())) < 2 * LARGE
    found = [values_of(one) async for one in saver.alist(config_of())]
    assert found == [{"large": large, "step": step} for step in reversed(range(20))]


async def test_a_change_that_is_repeated_takes_few_bytes(memory, counted):
    saver, _ = counted
    noise = random.Random(3).randbytes(LARGE + 3000)
    config = await put_values(saver, config_of(), {"large": noise[:LARGE]})
    config = await put_values(saver, config, {"large": noise}, versions={"large": 2})
    for _ in range(100):
        config = await put_values(saver, config, {"large": noise}, new=[], versions={"large": 2})
    assert sum(map(len, memory.objects.values())) < 6 * LARGE
    assert values_of(await saver.aget_tuple(config)) == {"large": noise}


async def test_a_new_value_of_the_same_version_is_stored(saver):
    config = await put_values(saver, config_of(), {"ch": "x" * LARGE})
    await put_values(saver, config, {"ch": "y" * LARGE})
    assert values_of(await saver.aget_tuple(config_of())) == {"ch": "y" * LARGE}


async def test_the_same_version_of_two_branches_has_two_values(saver):
    """Versions that count up are the same in two children of one checkpoint."""
    parent = await put_values(saver, config_of(), {"ch": "x" * LARGE})
    children = {}
    for name in ("one", "other"):
        value = f"{name} " * LARGE
        config = await put_values(saver, parent, {"ch": value}, versions={"ch": 2})
        children[id_of(config)] = value
    for checkpoint_id, value in children.items():
        found = await saver.aget_tuple(config_of(checkpoint_id=checkpoint_id))
        assert values_of(found) == {"ch": value}


async def test_the_state_stored_is_the_state_at_the_call(saver):
    values = {"messages": ["one"]}
    checkpoint = checkpoint_with(values)
    putting = asyncio.ensure_future(
        saver.aput(config_of(), checkpoint, {"source": "loop"}, checkpoint["channel_versions"])
    )
    await asyncio.sleep(0)
    values["messages"].append("two")
    await putting
    assert values_of(await saver.aget_tuple(config_of())) == {"messages": ["one"]}


async def test_of_the_writes_of_a_place_the_first_counts_and_of_special_ones_the_last(saver):
    config = await put_values(saver, config_of(), {})
    for turn in ("first", "second"):
        writes = [("a", turn), ("__resume__", turn), ("b", turn)]
        await saver.aput_writes(config, writes, "task", "path")
    await saver.aput_writes(config, [("a", "other")], "task-2", "path")
    found = await saver.aget_tuple(config)
    assert found.pending_writes == [
        ("task", "__resume__", "second"),
        ("task", "a", "first"),
        ("task", "b", "first"),
        ("task-2", "a", "other"),
    ]


async def test_a_writer_whose_clock_is_behind_still_writes_last(
    saver, make_store, prefix, monkeypatch
):
    config = await put_values(saver, config_of(), {})
    await saver.aput_writes(config, [("__resume__", "first")], "task")
    async with SnapstoreSaver(make_store(), prefix=prefix) as other:
        monkeypatch.setattr("time.time_ns", lambda: 1)
        await other.aget_tuple(config_of())
        await other.aput_writes(config, [("__resume__", "second")], "task")
        found = await other.aget_tuple(config_of())
    assert found.pending_writes == [("task", "__resume__", "second")]


async def test_ids_may_be_any_text(saver):
    for thread_id in ODD:
        for checkpoint_ns in ODD:
            await put_values(saver, config_of(thread_id, checkpoint_ns), {"ch": repr(thread_id)})
    for thread_id in ODD:
        found = [one async for one in saver.alist({"configurable": {"thread_id": thread_id}})]
        assert {one.config["configurable"]["checkpoint_ns"] for one in found} == set(ODD)
        assert {values_of(one)["ch"] for one in found} == {repr(thread_id)}
    every = [one async for one in saver.alist(None)]
    assert len(every) == len(ODD) ** 2
    assert {one.config["configurable"]["thread_id"] for one in every} == set(ODD)
    await saver.adelete_thread("a/b")
    assert await saver.aget_tuple(config_of("a/b")) is None
    assert await saver.aget_tuple(config_of("%2F")) is not None


async def test_channels_and_tasks_may_be_any_text(saver):
    names = [name for name in ODD if name != "\ud83d"]
    values = {name: name + "x" * LARGE for name in names}
    config = await put_values(saver, config_of(), values)
    for name in names:
        await saver.aput_writes(config, [(name, name)], name, name)
    found = await saver.aget_tuple(config)
    assert values_of(found) == values
    assert {(task, value) for task, _, value in found.pending_writes} == {(n, n) for n in names}


async def test_listings_are_newest_first_over_all_namespaces(saver):
    made = []
    for step in range(40):
        config = config_of("t", ["", "inner", "other"][step % 3])
        made.append(id_of(await put_values(saver, config, {}, step=step, odd=step % 2)))
    in_thread = {"configurable": {"thread_id": "t"}}
    newest_first = made[::-1]
    assert await ids_of(saver, in_thread) == newest_first
    assert await ids_of(saver, in_thread, limit=5) == newest_first[:5]
    assert await ids_of(saver, in_thread, limit=0) == []
    before = config_of(checkpoint_id=made[20])
    assert await ids_of(saver, in_thread, before=before) == newest_first[20:]
    assert await ids_of(saver, config_of("t", "inner"), before=before) == newest_first[20::3]
    assert await ids_of(saver, in_thread, filter={"odd": 1}, limit=3) == newest_first[0:6:2]
    assert await ids_of(saver, in_thread, filter={"odd": 3}) == []
    assert await ids_of(saver, config_of("t", "inner", made[1])) == [made[1]]
    in_sync = await asyncio.to_thread(lambda: list(saver.list(in_thread, limit=33)))
    assert [id_of(one.config) for one in in_sync] == newest_first[:33]


async def test_a_prune_leaves_what_a_run_under_way_has_written(saver):
    old = await put_values(saver, config_of(), {"ch": "x" * LARGE})
    await saver.aput_writes(old, [("ch", 1)], "task")
    new = await put_values(saver, old, {"ch": "y" * LARGE})
    ahead = config_of(checkpoint_id=str(uuid6(clock_seq=-1)))
    await saver.aput_writes(ahead, [("ch", "ahead")], "task")
    await saver.aprune(["t", "nobody"])
    assert await saver.aget_tuple(old) is None
    assert await ids_of(saver, config_of()) == [id_of(new)]
    checkpoint = {**checkpoint_with({"ch": "z"}), "id": id_of(ahead)}
    await saver.aput(new, checkpoint, {"source": "loop"}, {"ch": 1})
    found = await saver.aget_tuple(config_of())
    assert found.pending_writes == [("task", "ch", "ahead")]


async def test_checkpoints_of_a_run_are_deleted_with_what_only_they_need(make_store, prefix):
    async with ManagedStore(make_store()) as store:
        saver = SnapstoreSaver(store, prefix=prefix)
        kept, config = {}, config_of()
        for step, run in enumerate(["a", "b", "a", "b"]):
            value = f"{run} {step} " * LARGE
            config = await put_values(saver, config, {"ch": value}, run_id=run, step=step)
            await saver.aput_writes(config, [("ch", step)], "task")
            if run == "b":
                kept[id_of(config)] = value
        await put_values(saver, config_of("other"), {}, run_id="a")
        await saver.adelete_for_runs(["a", "c"])
        fresh = SnapstoreSaver(store, prefix=prefix)
        found = [one async for one in fresh.alist(config_of())]
        assert {id_of(one.config): values_of(one)["ch"] for one in found} == kept
        assert all(len(one.pending_writes) == 1 for one in found)
        assert await fresh.aget_tuple(config_of("other")) is None


async def test_a_thread_that_began_without_conflicts_goes_on_with_them(make_store, prefix):
    async with SnapstoreSaver(make_store(), prefix=prefix) as saver:
        config = await put_values(saver, config_of(), {"ch": 1})
    options = {"prefix": prefix, "on_conflict": "raise"}
    async with (
        SnapstoreSaver(make_store(), **options) as one,
        SnapstoreSaver(make_store(), **options) as other,
    ):
        for saver in (one, other):
            await saver.aget_tuple(config_of())
        results = await asyncio.gather(
            *(put_values(saver, config, {"ch": 2}) for saver in (one, other)),
            return_exceptions=True,
        )
        [failure] = [result for result in results if isinstance(result, Exception)]
        assert isinstance(failure, snapstore.SnapshotConflictError)
        assert failure.outcome == "not applied"
        [stored] = [result for result in results if not isinstance(result, Exception)]
        assert id_of((await other.aget_tuple(config_of())).config) == id_of(stored)


async def test_only_the_run_that_asked_for_an_older_checkpoint_may_go_on_from_it(memory):
    async with SnapstoreSaver(memory, on_conflict="raise") as saver:
        first = await put_values(saver, config_of(), {"ch": 1})
        await put_values(saver, first, {"ch": 2})
        # Another task looks at the older one, as a user interface does.
        await asyncio.create_task(saver.aget_tuple(first))
        with pytest.raises(snapstore.SnapshotConflictError):
            await put_values(saver, first, {"ch": 3})
        await saver.aget_tuple(first)
        fork = await put_values(saver, first, {"ch": 4})
        assert id_of((await saver.aget_tuple(config_of())).config) == id_of(fork)


async def test_forks_and_replays_of_subgraphs_may_go_on_from_an_older_checkpoint(memory):
    async with SnapstoreSaver(memory, on_conflict="raise") as saver:
        first = await put_values(saver, config_of(), {"ch": 1})
        second = await put_values(saver, first, {"ch": 2})
        with pytest.raises(snapstore.SnapshotConflictError):
            await put_values(saver, first, {"ch": 3})
        await put_values(saver, first, {"ch": 4}, source="fork")
        # What is found before another checkpoint is what a replayed subgraph goes on from.
        assert await ids_of(saver, config_of(), before=second) == [id_of(first)]
        await put_values(saver, first, {"ch": 5})


async def test_a_run_whose_checkpoints_are_deleted_leaves_no_head_behind(memory):
    async with SnapstoreSaver(memory, on_conflict="raise") as saver:
        first = await put_values(saver, config_of(), {"ch": 1}, run_id="kept")
        await put_values(saver, first, {"ch": 2}, run_id="gone")
        await saver.adelete_for_runs(["gone"])
        assert id_of((await saver.aget_tuple(config_of())).config) == id_of(first)
        await put_values(saver, first, {"ch": 3})


async def test_a_copy_is_whole_and_independent(saver):
    config = config_of()
    for step in range(5):
        config = await put_values(saver, config, {"ch": [step] * LARGE}, step=step)
        await saver.aput_writes(config, [("ch", step)], "task", "path")
    await put_values(saver, config_of("t", "inner"), {"x": 1})
    await saver.acopy_thread("t", "copied")
    await saver.acopy_thread("t", "copied")
    before = [one async for one in saver.alist(config_of())]
    await saver.adelete_thread("t")
    after = [one async for one in saver.alist(config_of("copied"))]
    assert [one.checkpoint for one in after] == [one.checkpoint for one in before]
    assert [one.pending_writes for one in after] == [one.pending_writes for one in before]
    assert {one.config["configurable"]["thread_id"] for one in after} == {"copied"}
    assert await saver.aget_tuple(config_of("copied", "inner")) is not None
    assert await saver.aget_tuple(config_of()) is None


def test_every_method_has_a_synchronous_twin():
    with SnapstoreSaver(MemoryObjectStore()) as saver:
        checkpoint = checkpoint_with({"ch": 1})
        config = saver.put(config_of(), checkpoint, {"source": "loop", "run_id": "r"}, {"ch": 1})
        saver.put_writes(config, [("ch", 2)], "task", "path")
        [found] = saver.list(config_of())
        assert saver.get_tuple(config_of()) == found == asyncio.run(saver.aget_tuple(config))
        saver.copy_thread("t", "u")
        saver.prune(["u"])
        saver.delete_for_runs(["r"])
        assert saver.get_tuple(config_of()) is None
        saver.copy_thread("nobody", "t")
        saver.delete_thread("t")


@dataclass
class Point:
    x: int


async def test_a_copy_with_another_serialiser_shares_the_store(memory):
    async with SnapstoreSaver(memory) as saver:
        strict = JsonPlusSerializer(allowed_msgpack_modules=[])
        saver.serde = strict
        twin = saver.with_allowlist([(Point.__module__, "Point")])
        assert twin is not saver
        await put_values(twin, config_of(), {"point": Point(3)})
        assert values_of(await twin.aget_tuple(config_of())) == {"point": Point(3)}


async def test_a_deep_copy_opens_a_store_of_its_own(tmp_path):
    async with SnapstoreSaver(FileObjectStore(tmp_path), on_conflict="raise") as saver:
        config = await put_values(saver, config_of(), {"ch": "x" * LARGE})
        twin = copy.deepcopy(saver)
    async with twin:
        assert values_of(await twin.aget_tuple(config)) == {"ch": "x" * LARGE}
        await put_values(twin, config, {"ch": "y" * LARGE})


async def test_values_may_be_encrypted(memory):
    serde = EncryptedSerializer(Reversed())
    async with SnapstoreSaver(memory, serde=serde) as saver:
        config = config_of()
        for step in range(5):
            values = {"ch": ["secret " * LARGE, step], "small": "secret"}
            config = await put_values(saver, config, values, writer="secret")
        await saver.aput_writes(config, [("ch", "secret")], "task")
        assert values_of(await saver.aget_tuple(config)) == values
    async with SnapstoreSaver(memory) as plain:
        with pytest.raises(Exception, match=r".+"):
            await plain.aget_tuple(config)


class Reversed:
    """A cipher for tests."""

    def encrypt(self, plaintext):
        return "reversed", plaintext[::-1]

    def decrypt(self, ciphername, ciphertext):
        return ciphertext[::-1]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "config must have a thread"),
        ({"configurable": {}}, "config must have a thread"),
        (config_of(1), "thread_id must be a str, not a int"),
        (config_of(uuid.uuid4()), "thread_id must be a str, not a UUID"),
        (config_of("t", 1), "checkpoint_ns must be a str"),
        (config_of("t", "", "latest"), "checkpoint_id must be a UUID"),
        (config_of("t", "", str(uuid.uuid4()).upper()), "checkpoint_id must be a UUID"),
        (config_of("t", "", "../../etc"), "checkpoint_id must be a UUID"),
    ],
)
async def test_a_config_that_names_nothing_is_refused_before_any_request(counted, config, message):
    saver, store = counted
    checkpoint = checkpoint_with({"ch": 1})
    calls = [
        saver.aget_tuple(config),
        saver.aput(config, checkpoint, {}, {}),
        saver.aput_writes(config, [], "task"),
        saver.aget_delta_channel_history(config=config, channels=["ch"]),
        anext(saver.alist(config)),
    ]
    for call in calls:
        with pytest.raises(snapstore.InvalidIdentifierError, match=message):
            await call
    assert not store.calls


async def test_other_bad_input_is_refused_before_any_request(counted):
    saver, store = counted
    with pytest.raises(snapstore.InvalidIdentifierError, match="whose writes they are"):
        await saver.aput_writes(config_of(), [], "task")
    with pytest.raises(snapstore.InvalidIdentifierError, match="task_id must be a str"):
        await saver.aput_writes(config_of(checkpoint_id=str(uuid6())), [], 1)
    with pytest.raises(snapstore.InvalidIdentifierError, match="checkpoint_id must be a UUID"):
        await saver.aput(config_of(), {**checkpoint_with({}), "id": "1"}, {}, {})
    with pytest.raises(snapstore.SnapshotEncodeError, match="half of a surrogate pair"):
        await saver.aput_writes(config_of(checkpoint_id=str(uuid6())), [("\ud83d", 1)], "task")
    with pytest.raises(ValueError, match="strategy must be"):
        await saver.aprune(["t"], strategy="keep_last")
    for call in (saver.aprune([1]), saver.adelete_thread(1), saver.acopy_thread("t", 1)):
        with pytest.raises(snapstore.InvalidIdentifierError, match="thread_id must be a str"):
            await call
    with pytest.raises(ValueError, match="onto itself"):
        await saver.acopy_thread("t", "t")
    assert not store.calls


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_conflict": "refuse"}, "on_conflict must be"),
        ({"max_bytes": 0}, "max_bytes must be at least 1"),
        ({"timeout": -1}, "timeout must be"),
        ({"prefix": "x" * 400}, "prefix must be at most"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SnapstoreSaver(MemoryObjectStore(), **options)


async def test_what_does_not_compress_may_be_as_large_as_is_allowed(memory):
    noise = random.Random(5).randbytes(LARGE)
    async with SnapstoreSaver(memory) as saver:
        size = len(saver.serde.dumps_typed(noise)[1])
    for _ in range(2):  # written, and read by another saver
        async with SnapstoreSaver(memory, max_bytes=size) as saver:
            if not memory.objects:
                await put_values(saver, config_of(), {"ch": noise})
            assert values_of(await saver.aget_tuple(config_of())) == {"ch": noise}


async def test_a_delete_removes_what_an_interrupted_write_has_left(tmp_path):
    async with SnapstoreSaver(FileObjectStore(tmp_path)) as saver:
        await put_values(saver, config_of(), {"ch": 1})
        [path] = [path for path in tmp_path.rglob("*") if path.is_file()]
        leftover = path.parent / f".snapstore-{uuid.uuid4().hex}"
        leftover.write_bytes(b"secret")
        await saver.adelete_thread("t")
    assert not leftover.exists()


async def test_what_is_too_large_is_refused_both_ways(memory):
    noise = random.Random(5).randbytes(LARGE)
    async with SnapstoreSaver(memory, max_bytes=LARGE - 1) as saver:
        with pytest.raises(snapstore.SnapshotEncodeError, match="'ch' has 20,000 bytes"):
            await put_values(saver, config_of(), {"ch": noise})
        config = await put_values(saver, config_of(), {})
        with pytest.raises(snapstore.SnapshotEncodeError, match="where 19,999 are allowed"):
            await saver.aput_writes(config, [("ch", noise)], "task")
    async with SnapstoreSaver(memory) as saver:
        await put_values(saver, config, {"ch": noise, **{str(n): noise[:999] for n in range(30)}})
    async with SnapstoreSaver(memory, max_bytes=LARGE - 1) as saver:
        with pytest.raises(snapstore.SnapstoreError, match="bytes"):
            await saver.aget_tuple(config_of())


@pytest.mark.parametrize("part", ["c", "w", "v"])
@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "other", "more"])
async def test_damage_is_an_error_that_names_the_key(memory, part, damage):
    async with SnapstoreSaver(memory) as saver:
        config = await put_values(saver, config_of(), {"ch": "secret" * LARGE})
        await saver.aput_writes(config, [("ch", "secret")], "task")
    [key] = [key for key in memory.objects if f"/{part}/" in key]
    data = memory.objects[key]
    memory.objects[key] = {
        "cut": data[:-1],
        "changed": data[:-5] + bytes([data[-5] ^ 1]) + data[-4:],
        "empty": b"",
        "other": b"secret",
        "more": data + b"x",
    }[damage]
    async with SnapstoreSaver(memory) as saver:
        with pytest.raises(snapstore.SnapshotDecodeError) as caught:
            await saver.aget_tuple(config_of())
    assert caught.value.key == key
    assert key in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.__context__ is None


async def test_a_value_that_is_missing_is_an_error(memory):
    async with SnapstoreSaver(memory) as saver:
        await put_values(saver, config_of(), {"ch": "x" * LARGE})
    [key] = [key for key in memory.objects if "/v/" in key]
    del memory.objects[key]
    async with SnapstoreSaver(memory) as saver:
        with pytest.raises(snapstore.SnapshotDecodeError, match="which does not exist"):
            await saver.aget_tuple(config_of())


@pytest.mark.parametrize("current", [None, 4, "4", f"{4:032}.0.5"])
def test_versions_grow(current):
    saver = SnapstoreSaver(MemoryObjectStore())
    following = saver.get_next_version(current, None)
    number = 1 if current is None else 5
    assert following.startswith(f"{number:032}.")
    assert saver.get_next_version(following, None) > following


async def test_writes_and_checkpoints_are_read_so_many_at_a_time():
    objects = CountingStore()
    async with SnapstoreSaver(objects) as saver:
        config = await put_values(saver, config_of(), {"ch": 1}, run_id="run")
        for number in range(300):
            await saver.aput_writes(config, [("ch", number)], f"{number:03}")
        assert [one[2] for one in (await saver.aget_tuple(config)).pending_writes] == [*range(300)]
        assert 50 < objects.most <= 101  # the checkpoint is read beside them
        for number in range(150):
            config = await put_values(saver, config, {"ch": number}, run_id="run")
        objects.most = 0
        await saver.adelete_for_runs(["another"])
        assert 50 < objects.most <= 100
        assert len(await ids_of(saver, config_of())) == 151
