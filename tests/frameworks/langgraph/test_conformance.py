"""The published suite of LangGraph, and histories of delta channels beyond it."""

import asyncio

import pytest
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import Capability
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from checkpoints import checkpoint_with, config_of, id_of, put_values
from snapstore.integrations.langgraph import SnapstoreSaver


async def test_the_published_suite_finds_every_capability_in_full(make_store, prefix):
    @checkpointer_test(name="SnapstoreSaver")
    async def make_saver():
        async with SnapstoreSaver(make_store(), prefix=prefix) as saver:
            yield saver

    report = await validate(make_saver)
    failures = {name: found.failures for name, found in report.results.items() if found.failures}
    assert not failures
    assert report.passed_all()
    assert {name for name, found in report.results.items() if found.detected} == {
        capability.value for capability in Capability
    }


async def chain(saver, steps, thread_id="t"):
    """Checkpoints, each the child of the last: values, and what is written on it."""
    config = config_of(thread_id)
    found = []
    for number, (values, writes) in enumerate(steps):
        config = await put_values(saver, config, values, step=number)
        found.append(config)
        if writes:
            await saver.aput_writes(config, writes, f"task-{number}")
    return found


async def history(saver, config, *channels):
    found = await saver.aget_delta_channel_history(config=config, channels=channels)
    in_sync = await asyncio.to_thread(
        saver.get_delta_channel_history, config=config, channels=channels
    )
    assert found == in_sync
    return {
        channel: ([value for _, _, value in one["writes"]], one.get("seed", "nothing"))
        for channel, one in found.items()
    }


async def test_writes_come_oldest_first_from_the_nearest_value_on(saver):
    configs = await chain(
        saver,
        [
            ({"ch": _DeltaSnapshot(["a"])}, [("ch", 0)]),
            ({"ch": _DeltaSnapshot(["b"])}, [("ch", 1), ("other", "x")]),
            ({}, [("ch", 2), ("ch", 3)]),
            ({}, [("ch", "pending")]),
        ],
    )
    # What is written on the checkpoint that has the value made its child; what is written on the
    # checkpoint that is asked for has not been applied.
    found = await history(saver, configs[-1], "ch")
    assert found == {"ch": ([1, 2, 3], _DeltaSnapshot(["b"]))}
    assert await history(saver, config_of(), "ch") == found


async def test_each_channel_ends_at_its_own_value(saver):
    steps = [({}, [("a", n), ("b", n), ("c", n)]) for n in range(5)]
    steps[1] = ({"a": "plain"}, steps[1][1])
    steps[3] = ({"b": _DeltaSnapshot("b")}, steps[3][1])
    configs = await chain(saver, steps)
    assert await history(saver, configs[-1], "a", "b", "c", "d") == {
        "a": ([1, 2, 3], "plain"),
        "b": ([3], _DeltaSnapshot("b")),
        "c": ([0, 1, 2, 3], "nothing"),
        "d": ([], "nothing"),
    }


async def test_only_ancestors_count(saver):
    configs = await chain(saver, [({"ch": ["seed"]}, [("ch", 0)]), ({}, [("ch", 1)]), ({}, [])])
    fork = await put_values(saver, configs[0], {}, step=5)
    await saver.aput_writes(fork, [("ch", "fork")], "task")
    child = await put_values(saver, fork, {}, step=6)
    assert await history(saver, child, "ch") == {"ch": ([0, "fork"], ["seed"])}
    assert await history(saver, configs[-1], "ch") == {"ch": ([0, 1], ["seed"])}


async def test_writes_of_a_step_are_ordered_by_path_task_and_index(saver):
    parent = await put_values(saver, config_of(), {})
    await saver.aput_writes(parent, [("ch", "b1"), ("ch", "b2")], "task-a", "path-2")
    await saver.aput_writes(parent, [("ch", "a")], "task-b", "path-1")
    await saver.aput_writes(parent, [("ch", "0")], "task-c")
    child = await put_values(saver, parent, {})
    assert await history(saver, child, "ch") == {"ch": (["0", "a", "b1", "b2"], "nothing")}
    found = await saver.aget_tuple(parent)
    assert [value for _, _, value in found.pending_writes] == ["0", "a", "b1", "b2"]


async def test_a_history_of_a_hundred_steps_is_read_ahead(counted):
    saver, store = counted
    configs = await chain(
        saver, [({"ch": 0}, [("ch", 0)]), *[({}, [("ch", n)]) for n in range(99)]]
    )
    store.calls.clear()
    found = await history(saver, configs[-1], "ch")
    assert found["ch"][0] == [0, *range(98)]
    # Both twins: the checkpoint, its 99 ancestors, the writes of each, and four listings ahead.
    assert len(store.calls) <= 2 * (1 + 99 + 4 + 2 * 99 + 31)


async def test_checkpoints_that_are_their_own_ancestors_end_the_walk(saver):
    first = await put_values(saver, config_of(), {})
    again = checkpoint_with({}) | {"id": id_of(first)}
    await saver.aput(first, again, {"source": "loop"}, {})
    await saver.aput_writes(first, [("ch", 1)], "task")
    assert await history(saver, first, "ch") == {"ch": ([], "nothing")}
    second = await put_values(saver, first, {})
    assert await history(saver, second, "ch") == {"ch": ([1], "nothing")}


async def test_no_channels_have_no_history(saver):
    assert await saver.aget_delta_channel_history(config=config_of(), channels=[]) == {}
    assert await history(saver, config_of("nobody"), "ch") == {"ch": ([], "nothing")}


async def test_a_prune_keeps_what_delta_channels_are_rebuilt_from(saver):
    configs = await chain(
        saver,
        [
            ({"ch": ["old"]}, [("ch", 0)]),
            ({"ch": ["seed"], "other": 1}, [("ch", 1)]),
            ({"other": 2}, [("ch", 2)]),
        ],
    )
    counters = {"ch": (2, 2)}
    head = await put_values(
        saver, configs[-1], {"other": 3}, counters_since_delta_snapshot=counters
    )
    before = await history(saver, head, "ch")
    assert before == {"ch": ([1, 2], ["seed"])}
    await saver.aprune(["t"])
    assert await history(saver, head, "ch") == before
    assert await saver.aget_tuple(configs[0]) is None
    kept = [one async for one in saver.alist(config_of())]
    assert [id_of(one.config) for one in kept] == [
        id_of(head),
        id_of(configs[2]),
        id_of(configs[1]),
    ]


@pytest.mark.parametrize("counters", [{}, {"ch": (0, 0)}])
async def test_a_prune_keeps_no_ancestors_of_a_channel_that_has_its_value(saver, counters):
    configs = await chain(saver, [({"ch": ["old"]}, [("ch", 0)]), ({}, [("ch", 1)])])
    extra = {"counters_since_delta_snapshot": counters} if counters else {}
    head = await put_values(saver, configs[-1], {"ch": ["new"]}, **extra)
    await saver.aprune(["t"])
    assert [id_of(one.config) async for one in saver.alist(config_of())] == [id_of(head)]
