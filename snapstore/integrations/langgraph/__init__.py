"""LangGraph: a checkpointer over an object store.

::

    async with SnapstoreSaver(S3ObjectStore("my-bucket"), prefix="threads") as saver:
        graph = builder.compile(checkpointer=saver)
        await graph.ainvoke(state, {"configurable": {"thread_id": "chat-1"}})
"""

try:
    import langgraph.checkpoint.base  # noqa: F401  # pyright: ignore[reportUnusedImport]
except ImportError as _error:
    raise ImportError(
        'snapstore.integrations.langgraph needs LangGraph: pip install "snapstore[langgraph]"'
    ) from _error

from snapstore.integrations.langgraph.saver import DEFAULT_MAX_BYTES, SnapstoreSaver

__all__ = ["DEFAULT_MAX_BYTES", "SnapstoreSaver"]
