"""Configs of LangGraph: the threads, namespaces and checkpoints that they name."""

from __future__ import annotations

from typing import Any

from langchain_core.runnables import RunnableConfig  # noqa: TC002 -- `get_type_hints` needs it

from snapstore.errors import InvalidIdentifierError
from snapstore.integrations.langgraph.keys import thread_root, validate_checkpoint_id
from snapstore.integrations.langgraph.records import StoredCheckpoint

__all__ = [
    "checkpoint_id_of",
    "config_of",
    "configurable_of",
    "names_in",
    "names_of",
    "thread_id_of",
]


def configurable_of(config: RunnableConfig) -> dict[str, Any]:
    """What a config says of threads."""
    return config.get("configurable") or {}


def thread_id_of(configurable: dict[str, Any]) -> str:
    """The thread.

    Raises:
        InvalidIdentifierError: There is none, or it is no `str`.
    """
    if "thread_id" not in configurable:
        raise InvalidIdentifierError(
            'config must have a thread: {"configurable": {"thread_id": …}}'
        )
    thread_id: str = configurable["thread_id"]
    thread_root("", thread_id)
    return thread_id


def checkpoint_id_of(config: RunnableConfig) -> str | None:
    """The checkpoint that a config names; `None` if it names none.

    Raises:
        InvalidIdentifierError: It is no UUID.
    """
    checkpoint_id = configurable_of(config).get("checkpoint_id")
    return validate_checkpoint_id(checkpoint_id) if checkpoint_id else None


def names_of(record: StoredCheckpoint) -> tuple[str, str]:
    """The thread and the namespace of a checkpoint."""
    thread = record.thread.decode("utf-8", "surrogatepass")
    return thread, record.namespace.decode("utf-8", "surrogatepass")


def names_in(config: RunnableConfig) -> tuple[str, str]:
    """The thread and the namespace that a config names."""
    configurable = configurable_of(config)
    return thread_id_of(configurable), configurable.get("checkpoint_ns") or ""


def config_of(names: tuple[str, str], checkpoint_id: str) -> RunnableConfig:
    """The config that names a checkpoint."""
    thread_id, checkpoint_ns = names
    return {
        "configurable": {
            "thread_id": thread_id,
            "checkpoint_ns": checkpoint_ns,
            "checkpoint_id": checkpoint_id,
        }
    }
