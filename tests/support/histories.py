"""Sessions with long histories, made directly in an object store."""

from datetime import UTC, datetime, timedelta

from snapstore import Snapshot, SnapshotLocation, snapshot_id_at
from snapstore.encoding.envelope import encode_snapshot

NOW = datetime.now(UTC).replace(microsecond=0)


def location_of(session_id, agent_id="weather"):
    return SnapshotLocation.agent(session_id, agent_id)


def id_days_ago(days):
    """The snapshot id of a time so many days ago."""
    return snapshot_id_at(NOW - timedelta(days=days))


def document(turn):
    """A snapshot as it is stored."""
    return encode_snapshot(Snapshot.new({"turn": turn}), max_bytes=2**20)


async def write_history(storage, location, days):
    """Save a snapshot for each of so many days ago, oldest first; returns the ids, oldest first."""
    ids = [id_days_ago(ago) for ago in sorted(days, reverse=True)]
    for turn, snapshot_id in enumerate(ids):
        key = storage.layout.history(location, snapshot_id)
        await storage.objects.put(key, document(turn))
    return ids
