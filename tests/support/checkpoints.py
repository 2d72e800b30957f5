"""Checkpoints as LangGraph makes them."""

from langgraph.checkpoint.base.id import uuid6


def config_of(thread_id="t", checkpoint_ns="", checkpoint_id=None):
    found = {"thread_id": thread_id, "checkpoint_ns": checkpoint_ns}
    if checkpoint_id is not None:
        found["checkpoint_id"] = checkpoint_id
    return {"configurable": found}


def checkpoint_with(values, versions=None):
    return {
        "v": 2,
        "id": str(uuid6(clock_seq=-1)),
        "ts": "2026-11-28T00:00:00+00:00",
        "channel_values": dict(values),
        "channel_versions": dict.fromkeys(values, 1) if versions is None else dict(versions),
        "versions_seen": {},
        "updated_channels": None,
    }


async def put_values(saver, config, values, *, step=0, new=None, versions=None, **metadata):
    """Put a checkpoint whose values are new, or those named."""
    checkpoint = checkpoint_with(values, versions)
    new = {name: checkpoint["channel_versions"][name] for name in (values if new is None else new)}
    metadata = {"source": "loop", "step": step, "parents": {}} | metadata
    return await saver.aput(config, checkpoint, metadata, new)


def values_of(found):
    """The values of the channels in a checkpoint that was read."""
    return found.checkpoint["channel_values"]


async def ids_of(saver, *arguments, **options):
    """The ids of the checkpoints that are listed."""
    found = saver.alist(*arguments, **options)
    return [one.config["configurable"]["checkpoint_id"] async for one in found]


def id_of(config):
    return config["configurable"]["checkpoint_id"]
