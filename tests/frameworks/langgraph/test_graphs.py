"""Graphs run on the saver: interrupted, killed and resumed, rewound, two at a time."""

import asyncio
import json
import operator
import sys
from pathlib import Path
from typing import Annotated, TypedDict

import pytest
from langgraph.channels import DeltaChannel
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command

import graphs
import snapstore
from checkpoints import config_of
from snapstore.integrations.langgraph import SnapstoreSaver
from snapstore.stores import MemoryObjectStore

THREAD = {"configurable": {"thread_id": "t"}}
WITHIN = 60.0  # seconds


@pytest.mark.parametrize("durability", graphs.DURABILITIES)
@pytest.mark.parametrize("method", graphs.METHODS)
@pytest.mark.parametrize("on_conflict", ["ignore", "raise"])
async def test_an_interrupted_subgraph_goes_on_in_another_process(
    make_store, prefix, method, durability, on_conflict
):
    options = {"prefix": prefix, "on_conflict": on_conflict}
    async with SnapstoreSaver(make_store(), **options) as saver:
        graph = graphs.with_subgraph(saver)
        await graphs.run(graph, method, {"messages": ["hello"]}, THREAD, durability)
    async with SnapstoreSaver(make_store(), **options) as saver:
        graph = graphs.with_subgraph(saver)
        state = await graph.aget_state(THREAD, subgraphs=True)
        assert [one.value for task in state.tasks for one in task.interrupts] == ["sure?"]
        values = await graphs.run(graph, method, Command(resume="yes"), THREAD, durability)
        told = ["hello", "first", "hello", "first", "thought", "answer yes", "last"]
        assert values["messages"] == told
        values = await graphs.run(graph, method, {"messages": ["again"]}, THREAD, durability)
        values = await graphs.run(graph, method, Command(resume="no"), THREAD, durability)
        assert values["messages"][-1] == "last"
        assert "answer no" in values["messages"]


@pytest.mark.parametrize("durability", graphs.DURABILITIES)
@pytest.mark.parametrize("method", graphs.METHODS)
@pytest.mark.parametrize("kind", ["files", pytest.param("s3", marks=pytest.mark.s3)])
async def test_a_run_that_is_killed_in_a_super_step_resumes(
    request, tmp_path, prefix, kind, method, durability
):
    place = {"root": str(tmp_path)}
    if kind == "s3":
        server, bucket = map(request.getfixturevalue, ("s3_server", "bucket"))
        session = [server.access_key, server.secret_key, server.region]
        place = {"bucket": bucket, "endpoint_url": server.endpoint_url, "session": session}

    async with SnapstoreSaver(graphs.store_at(place), prefix=prefix) as saver:
        ran = []

        def fast(state):
            ran.append("fast")
            return {"messages": ["fast"]}

        def slow(state):
            ran.append("slow")
            return {"messages": ["slow"]}

        graph = graphs.with_two_branches(saver, fast, slow)
        await graphs.run(graph, method, {"messages": ["one"]}, THREAD, durability)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, graphs.__file__, json.dumps(place), prefix, method, durability),
            stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parent,
        )
        try:
            async with asyncio.timeout(WITHIN):
                assert await process.stdout.readline() == b"slow\n"
                while durability != "exit" and not await has_writes(saver):
                    await asyncio.sleep(0.05)
        finally:
            process.kill()
            await process.wait()

        ran.clear()
        if durability == "exit":
            # Nothing of the turn was stored, so it is made again.
            state = await graph.aget_state(THREAD)
            assert state.values["messages"] == ["one", "fast", "slow"]
            given = {"messages": ["two"]}
        else:
            given = None
        values = await graphs.run(graph, method, given, THREAD, durability)
        assert values["messages"] == ["one", "fast", "slow", "two", "fast", "slow"]
        assert sorted(ran) == (["fast", "slow"] if durability == "exit" else ["slow"])


async def has_writes(saver):
    found = await saver.aget_tuple(config_of())
    return any(value == ["fast"] for _, _, value in found.pending_writes)


class MeetingSaver(SnapstoreSaver):
    """Lets two runs read one checkpoint before either goes on from it."""

    meet = None

    async def aget_tuple(self, config):
        found = await super().aget_tuple(config)
        if self.meet is not None:
            await self.meet.wait()
        return found


@pytest.mark.parametrize("durability", graphs.DURABILITIES)
@pytest.mark.parametrize("is_new", [False, True])
async def test_of_two_runs_from_one_checkpoint_one_is_refused(
    make_store, prefix, durability, is_new
):
    options = {"prefix": prefix, "on_conflict": "raise"}
    async with (
        MeetingSaver(make_store(), **options) as one,
        MeetingSaver(make_store(), **options) as other,
    ):
        runs = [with_two_branches(saver) for saver in (one, other)]
        if not is_new:
            await runs[0].ainvoke({"messages": ["first"]}, THREAD, durability=durability)
        one.meet = other.meet = asyncio.Barrier(2)
        results = await asyncio.gather(
            *(
                run.ainvoke({"messages": [f"race {n}"]}, THREAD, durability=durability)
                for n, run in enumerate(runs)
            ),
            return_exceptions=True,
        )
        one.meet = other.meet = None
        [failure] = [one for one in results if isinstance(one, Exception)]
        [success] = [one for one in results if not isinstance(one, Exception)]
        assert isinstance(failure, snapstore.SnapshotConflictError)
        # The turn that was reported as made is what the next one goes on from.
        for run in runs:
            assert (await run.aget_state(THREAD)).values == success
        values = await runs[0].ainvoke({"messages": ["next"]}, THREAD, durability=durability)
        assert values["messages"][: len(success["messages"])] == success["messages"]


def with_two_branches(saver):
    async def fast(state):
        return {"messages": ["fast"]}

    async def slow(state):
        return {"messages": ["slow"]}

    return graphs.with_two_branches(saver, fast, slow)


async def test_without_on_conflict_the_newest_turn_counts(make_store, prefix):
    async with SnapstoreSaver(make_store(), prefix=prefix) as saver:
        graph = graphs.with_subgraph(saver)
        runs = [graph.ainvoke({"messages": [f"race {n}"]}, THREAD) for n in range(2)]
        await asyncio.gather(*runs)
        state = await graph.aget_state(THREAD)
        assert state.next == ("inner",)


@pytest.mark.parametrize("method", graphs.METHODS)
@pytest.mark.parametrize("on_conflict", ["ignore", "raise"])
async def test_a_run_goes_on_from_an_older_checkpoint(method, on_conflict):
    async with SnapstoreSaver(MemoryObjectStore(), on_conflict=on_conflict) as saver:
        graph = graphs.with_subgraph(saver)
        for given in ({"messages": ["one"]}, Command(resume="a"), {"messages": ["two"]}):
            await graphs.run(graph, method, given, THREAD, "sync")
        history = [state async for state in graph.aget_state_history(THREAD)]
        [at_first] = [
            state
            for state in history
            if state.next == ("first",) and len(state.values["messages"]) == 1
        ]
        # With new input, and as a replay.
        values = await graphs.run(graph, method, {"messages": ["other"]}, at_first.config, "sync")
        assert values["messages"][:2] == ["one", "other"]
        values = await graphs.run(graph, method, None, at_first.config, "sync")
        values = await graphs.run(graph, method, Command(resume="b"), THREAD, "sync")
        assert values["messages"][-2:] == ["answer b", "last"]
        assert values["messages"][:2] == ["one", "first"]
        # An update of the newest, and one of an older checkpoint.
        await graph.aupdate_state(THREAD, {"messages": ["edited"]}, as_node="last")
        assert (await graph.aget_state(THREAD)).values["messages"][-1] == "edited"
        await graph.aupdate_state(at_first.config, {"messages": ["forked"]}, as_node="first")
        assert (await graph.aget_state(THREAD)).values["messages"] == ["one", "forked"]


class DeltaState(TypedDict):
    items: Annotated[
        list[str],
        DeltaChannel(lambda old, new: [*old, *(x for w in new for x in w)], snapshot_frequency=5),
    ]
    count: Annotated[int, operator.add]


@pytest.mark.parametrize("durability", graphs.DURABILITIES)
async def test_delta_channels_are_rebuilt_also_after_a_prune(make_store, prefix, durability):
    graph = StateGraph(DeltaState)
    graph.add_node("a", lambda state: {"items": [f"a{state['count']}"], "count": 1})
    graph.add_node("b", lambda state: {"items": [f"b{state['count'] - 1}"]})
    # One after the other: with durability="exit", LangGraph 1.2.14 mixes up what two nodes have
    # written at a time.
    graph.add_edge(START, "a")
    graph.add_edge("a", "b")
    graph.add_edge("b", END)
    expected = []
    async with SnapstoreSaver(make_store(), prefix=prefix) as saver:
        compiled = graph.compile(checkpointer=saver)
        for turn in range(13):
            given = {"items": [f"in{turn}"], "count": 0}
            values = await compiled.ainvoke(given, THREAD, durability=durability)
            expected += [f"in{turn}", f"a{turn}", f"b{turn}"]
            assert values["items"] == expected
            if turn in (3, 9):
                await saver.aprune(["t"])
                assert (await compiled.aget_state(THREAD)).values["items"] == expected
    async with SnapstoreSaver(make_store(), prefix=prefix) as saver:
        await saver.acopy_thread("t", "copied")
        for thread_id in ("t", "copied"):
            state = await graph.compile(checkpointer=saver).aget_state(config_of(thread_id))
            assert state.values["items"] == expected
