"""A program: archive 500 snapshots of a conversation that grows to 1.4 MB, bring them back, redact.

It prints figures as JSON. The history is made as it is read, so that the memory is the archiver's.
"""

import asyncio
import json
import random
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from snapstore import ObjectSnapshotStorage, SnapshotLocation, snapshot_id_at
from snapstore.operations import RetentionPolicy, archive, redact, redaction, unarchive
from snapstore.stores import MemoryObjectStore

TURNS = 500
LOCATION = SnapshotLocation.agent("session-1", "weather")


def make_messages():
    rng = random.Random(7)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 9))) for _ in range(5_000)]
    return [
        json.dumps({"role": "user", "content": [{"text": " ".join(rng.choices(words, k=430))}]})
        for _ in range(TURNS)
    ]


MESSAGES = make_messages()


def document(turn):
    messages = ",".join(MESSAGES[: turn + 1])
    return (
        '{"scope":"agent","schemaVersion":"1.0","createdAt":"2026-11-28T00:00:00.000Z",'
        f'"data":{{"messages":[{messages}],"state":{{"turn":{turn}}}}},"appData":{{}}}}'
    ).encode()


class Lazy(dict):
    """Bodies by key; that of a snapshot in history is made when it is asked for."""

    def get(self, key, default=None):
        found = super().get(key, default)
        return document(found) if isinstance(found, int) else found

    def __setitem__(self, key, data):
        if "/immutable_history/" in key and not isinstance(data, int):
            turn = json.loads(data)["data"]["state"]["turn"]
            assert data == document(turn)
            data = turn
        super().__setitem__(key, data)


def memory():
    """The most memory that this process has had, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def unpacked_by_program(pack):
    """Whether the `zstd` program gives the documents, a line each."""
    program = shutil.which("zstd")
    if program is None:
        return None
    done = subprocess.run([program, "-d"], input=pack, capture_output=True, check=True)
    lines = done.stdout.split(b"\n")
    assert lines.pop() == b""
    assert len(lines) == TURNS
    return all(line == document(turn) for turn, line in enumerate(lines))


async def main():
    store = MemoryObjectStore()
    store.objects = Lazy()
    began = datetime(2026, 1, 1, tzinfo=UTC)
    before = memory()
    async with ObjectSnapshotStorage(store) as storage:
        ids = [snapshot_id_at(began + timedelta(hours=turn)) for turn in range(TURNS + 1)]
        history = {storage.layout.history(LOCATION, found): n for n, found in enumerate(ids)}
        dict.update(store.objects, history)
        MESSAGES.append(MESSAGES[0])
        report = await archive(storage, RetentionPolicy(keep_last=1)).run()
        archived = memory()
        packs = {key: data for key, data in store.objects.items() if "/archive/" in key}
        plain = [key for key in store.objects if "/immutable_history/" in key]
        assert plain == [storage.layout.history(LOCATION, ids[-1])]
        loaded = await storage.load_archived(location=LOCATION, snapshot_id=ids[250])
        assert loaded.data["state"] == {"turn": 250}
        back = await unarchive(storage).run()
        restored = memory()
        assert {key: dict.get(store.objects, key) for key in history} == history
        for key in history:
            store.objects.pop(key)
        [text] = re.findall(r"[a-z]{9}", MESSAGES[0])[:1]
        redacted = await redact(storage, session_id="session-1", change=redaction([text])).run()
        assert redacted.places >= TURNS
        anew = memory()
    [pack] = packs.values()
    sys.stdout.write(
        json.dumps(
            {
                "archived": report.archived,
                "restored": back.restored,
                "largest": len(document(TURNS - 1)),
                "bytes": report.bytes,
                "packed": len(pack),
                "ratio": round(report.bytes / len(pack)),
                "memory before": round(before),
                "memory of archive": round(archived),
                "memory of unarchive": round(restored),
                "memory of redact": round(anew),
                "by the program": unpacked_by_program(pack),
            }
        )
    )


if __name__ == "__main__":
    asyncio.run(main())
