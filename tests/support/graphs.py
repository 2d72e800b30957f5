"""Graphs, and a program that runs one until it is killed.

python graphs.py '{"root": …}' thread method durability
"""

import asyncio
import json
import operator
import sys
import time
from typing import Annotated, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

from snapstore.integrations.langgraph import SnapstoreSaver
from snapstore.stores import FileObjectStore, S3ObjectStore
from snapstore.testing.server import isolated_session

METHODS = ["invoke", "ainvoke", "astream"]
DURABILITIES = ["sync", "async", "exit"]


class State(TypedDict):
    messages: Annotated[list[str], operator.add]


def with_subgraph(saver):
    """A graph whose second node is a graph that asks."""
    inner = StateGraph(State)
    inner.add_node("think", lambda state: {"messages": ["thought"]})
    inner.add_node("ask", lambda state: {"messages": [f"answer {interrupt('sure?')}"]})
    inner.add_edge(START, "think")
    inner.add_edge("think", "ask")
    inner.add_edge("ask", END)
    outer = StateGraph(State)
    outer.add_node("first", lambda state: {"messages": ["first"]})
    outer.add_node("inner", inner.compile())
    outer.add_node("last", lambda state: {"messages": ["last"]})
    outer.add_edge(START, "first")
    outer.add_edge("first", "inner")
    outer.add_edge("inner", "last")
    outer.add_edge("last", END)
    return outer.compile(checkpointer=saver)


def with_two_branches(saver, fast, slow):
    """A graph whose nodes `fast` and `slow` run in one super-step."""
    graph = StateGraph(State)
    graph.add_node("fast", fast)
    graph.add_node("slow", slow)
    for node in ("fast", "slow"):
        graph.add_edge(START, node)
        graph.add_edge(node, END)
    return graph.compile(checkpointer=saver)


async def run(graph, method, given, config, durability):
    """Run a graph; returns the values at the end."""
    if method == "invoke":
        return await asyncio.to_thread(graph.invoke, given, config, durability=durability)
    if method == "ainvoke":
        return await graph.ainvoke(given, config, durability=durability)
    values = {}
    stream = graph.astream(given, config, durability=durability, stream_mode="values")
    async for part in stream:
        values = part
    return values


def store_at(place):
    """A store in another process: `place` is JSON."""
    if "root" in place:
        return FileObjectStore(place["root"])
    session = isolated_session(*place["session"])
    return S3ObjectStore(place["bucket"], endpoint_url=place["endpoint_url"], session=session)


async def main(place, prefix, method, durability):
    """Run a turn whose node `slow` never ends."""

    def slow(state):
        print("slow", flush=True)  # noqa: T201 -- the one who kills it waits for this
        time.sleep(3600)

    async with SnapstoreSaver(store_at(json.loads(place)), prefix=prefix) as saver:
        graph = with_two_branches(saver, lambda state: {"messages": ["fast"]}, slow)
        config = {"configurable": {"thread_id": "t"}}
        await run(graph, method, {"messages": ["two"]}, config, durability)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
