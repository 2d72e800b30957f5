"""What each command does, on a directory and on a real S3 server."""

import json
import sys

import pytest

from histories import NOW, id_days_ago, location_of, write_history
from snapstore import Snapshot, SnapshotLocation, new_snapshot_id

LOCATION = location_of("chat-1")
MESSAGES = [
    {"role": "user", "content": [{"text": "What is the weather in Zürich?"}]},
    {
        "role": "assistant",
        "content": [
            {"text": "Let me look.\nA moment."},
            {"toolUse": {"name": "weather", "toolUseId": "t-1", "input": {"city": "Zürich"}}},
        ],
    },
    {
        "role": "user",
        "content": [
            {
                "toolResult": {
                    "toolUseId": "t-1",
                    "status": "success",
                    "content": [{"json": {"celsius": -3.5}}, {"text": "cold"}],
                }
            },
            {"image": {"format": "png", "source": {"bytes": "aGVsbG8gd29ybGQh"}}},
        ],
    },
    {"role": "assistant", "content": [{"text": "\x1b[31mCold\x1b[0m \u202eand dry\x07"}]},
]


def state(messages, **fields):
    return Snapshot.new({"messages": MESSAGES[:messages], "state": {"turn": messages}, **fields})


async def write_chat(storage, session_id="chat-1"):
    """A chat of four turns; returns the ids of its history."""
    saved = [
        await storage.checkpoint(location=location_of(session_id), snapshot=state(messages))
        for messages in range(1, 5)
    ]
    return [one.snapshot_id for one in saved]


def rows(ended):
    assert ended.status == 0, ended.err
    return [line.split("\t") for line in ended.out.splitlines()]


def lines(ended):
    return [json.loads(line) for line in ended.out.splitlines()]


async def test_sessions_locations_and_snapshots_are_listed(here, snapstore):
    ids = await write_chat(here.storage)
    await here.storage.checkpoint(
        location=SnapshotLocation.multi_agent("chat-1", "graph"),
        snapshot=Snapshot.new({}, scope="multiAgent"),
    )
    await write_chat(here.storage, "chat-2")

    sessions = rows(await snapstore("ls", here.name, environment=here.environment))
    assert sessions[0] == ["session", "updated", "locations", "snapshots", "size"]
    assert [[row[0], *row[2:4]] for row in sessions[1:]] == [
        ["chat-1", "2", "5"],
        ["chat-2", "1", "4"],
    ]
    locations = rows(await snapstore("ls", here.name, "chat-1", environment=here.environment))
    assert [row[:2] for row in locations[1:]] == [["agent/weather", "4"], ["multiAgent/graph", "1"]]
    ended = await snapstore(
        *("ls", here.name, "chat-1", "agent/weather", "--limit", 3), environment=here.environment
    )
    assert [row[0] for row in rows(ended)[1:]] == ids[:0:-1]
    assert ended.err == f"there may be more: --cursor {ids[1]}\n"
    rest = await snapstore(
        *("ls", here.name, "chat-1", "agent/weather", "--cursor", ids[1], "--json"),
        environment=here.environment,
    )
    assert [line["snapshot_id"] for line in lines(rest)] == [ids[0]]
    forwards = await snapstore(
        *("ls", here.name, "chat-1", "agent/weather", "--oldest-first", "--json"),
        environment=here.environment,
    )
    assert [line["snapshot_id"] for line in lines(forwards)] == ids


async def test_sessions_come_in_pages(here, snapstore):
    for number in range(3):
        await write_chat(here.storage, f"chat-{number}")
    ended = await snapstore("ls", here.name, "--limit", 2, environment=here.environment)
    assert [row[0] for row in rows(ended)[1:]] == ["chat-0", "chat-1"]
    cursor = ended.err.split("--cursor ")[1].strip()
    ended = await snapstore(
        *("ls", here.name, "--limit", 2, "--cursor", cursor, "--json"),
        environment=here.environment,
    )
    assert [line["session_id"] for line in lines(ended)] == ["chat-2"]


async def test_snapshots_of_a_time_are_listed_and_shown(here, snapstore):
    ids = await write_history(here.storage, LOCATION, [30, 20, 10])
    ended = await snapstore(
        *("ls", here.name, "chat-1", "agent/weather", "--until", f"{NOW:%Y-%m-%d}", "--since"),
        f"{NOW.replace(year=NOW.year - 1):%Y-%m-%d}",
        environment=here.environment,
    )
    assert [row[0] for row in rows(ended)[1:]] == ids[::-1]
    ended = await snapstore(
        *("show", here.name, "chat-1", "agent/weather", "--json", "--as-of"),
        f"{NOW - (NOW - NOW):%Y-%m-%dT%H:%M:%SZ}",
        environment=here.environment,
    )
    assert json.loads(ended.out)["data"] == {"turn": 2}
    ended = await snapstore(
        *("show", here.name, "chat-1", "agent/weather", "--as-of", "2001-01-01"),
        environment=here.environment,
    )
    assert (ended.status, ended.out) == (1, "")
    assert "no snapshot in history of 2001-01-01" in ended.err


async def test_a_transcript_is_shown_and_can_not_command_the_terminal(here, snapstore):
    ids = await write_chat(here.storage)
    ended = await snapstore("show", here.name, "chat-1", environment=here.environment)
    assert ended.status == 0, ended.err
    assert ended.out.splitlines()[2:] == [
        "",
        "user: What is the weather in Zürich?",
        "",
        "assistant: Let me look.",
        "  A moment.",
        '  → weather {"city": "Zürich"}',
        "",
        'user: ← {"celsius": -3.5}',
        "    cold",
        "  [image: png, 12 bytes]",
        "",
        r"assistant: \x1b[31mCold\x1b[0m \u202eand dry\x07",
        "",
        '[state] {"turn": 4}',
    ]
    ended = await snapstore(
        *("show", here.name, "chat-1", "agent/weather", "--snapshot", ids[0]),
        environment=here.environment,
    )
    assert ended.out.count("user: ") == 1
    ended = await snapstore("show", here.name, "chat-1", "--json", environment=here.environment)
    assert json.loads(ended.out)["data"]["messages"] == MESSAGES


async def test_a_session_of_several_locations_asks_for_one(here, snapstore):
    await write_chat(here.storage)
    await here.storage.checkpoint(location=location_of("chat-1", "travel"), snapshot=state(1))
    ended = await snapstore("show", here.name, "chat-1", environment=here.environment)
    assert ended.status == 2
    assert "agent/travel, agent/weather" in ended.err


async def test_two_snapshots_are_compared(here, snapstore):
    ids = await write_chat(here.storage)
    ended = await snapstore(
        *("diff", here.name, "chat-1", "agent/weather", ids[0], ids[1]),
        environment=here.environment,
    )
    assert ended.status == 1
    assert ended.out.splitlines() == [
        "@ message 1 added",
        "+ assistant: Let me look.",
        "+   A moment.",
        '+   → weather {"city": "Zürich"}',
        "@ state changed",
        '- {"turn": 1}',
        '+ {"turn": 2}',
    ]
    same = await snapstore(
        *("diff", here.name, "chat-1", "agent/weather", ids[3]), environment=here.environment
    )
    assert (same.status, same.out) == (0, "")
    ended = await snapstore(
        *("diff", here.name, "chat-1", "agent/weather", "latest", ids[2], "--json"),
        environment=here.environment,
    )
    assert [(line["what"], line["change"]) for line in lines(ended)] == [
        ("message", "removed"),
        ("state", "changed"),
    ]


async def test_sizes_are_those_of_what_is_stored(here, snapstore):
    await write_chat(here.storage)
    await write_chat(here.storage, "chat-2")
    ended = await snapstore("du", here.name, "--json", environment=here.environment)
    described = await here.storage.describe_session(session_id="chat-1")
    sizes = {line["session_id"]: line["bytes"] for line in lines(ended)}
    assert sizes["chat-1"] == sum(location.bytes for location in described.locations)
    assert sizes.keys() == {"chat-1", "chat-2"}
    ended = await snapstore("du", here.name, environment=here.environment)
    assert ended.err.startswith("2 sessions, 8 snapshots, ")


async def test_going_back_makes_a_snapshot_the_latest_one(here, snapstore):
    ids = await write_chat(here.storage)
    arguments = ("rewind", here.name, "chat-1", "agent/weather", ids[1])
    refused = await snapstore(*arguments, environment=here.environment)
    assert (refused.status, refused.out) == (2, "")
    assert "add --yes" in refused.err
    dry = await snapstore(*arguments, "--dry-run", environment=here.environment)
    assert (dry.status, dry.out) == (0, "")
    assert "would replace the latest snapshot (4 messages)" in dry.err
    assert (await here.storage.load_snapshot(location=LOCATION)).data["state"] == {"turn": 4}
    ended = await snapstore(*arguments, "--yes", "--json", environment=here.environment)
    assert (ended.status, lines(ended)[0]["snapshot_id"]) == (0, ids[1])
    assert (await here.storage.load_snapshot(location=LOCATION)).data["state"] == {"turn": 2}


async def test_history_is_pruned_by_a_policy(here, snapstore):
    ids = await write_history(here.storage, LOCATION, range(5))
    arguments = ("prune", here.name, "--keep-last", 2)
    refused = await snapstore(*arguments, environment=here.environment)
    assert refused.status == 2
    dry = await snapstore(*arguments, "--dry-run", environment=here.environment)
    assert dry.status == 0
    assert [line.split("\t")[0] for line in dry.out.splitlines()] == ["planned"] * 3
    assert await here.storage.list_snapshot_ids(location=LOCATION) == ids
    ended = await snapstore(*arguments, "--yes", "--json", environment=here.environment)
    assert {line["result"] for line in lines(ended)} == {"deleted"}
    assert ended.err.startswith("3 snapshots deleted (")
    assert await here.storage.list_snapshot_ids(location=LOCATION) == ids[-2:]


async def test_a_saved_plan_is_applied_and_no_more(here, snapstore, tmp_path):
    ids = await write_history(here.storage, LOCATION, range(5))
    dry = await snapstore(
        *("prune", here.name, "--keep-last", 2, "--dry-run", "--json"),
        environment=here.environment,
    )
    later = await write_history(here.storage, LOCATION, [-1, -2])
    plan = tmp_path / "plan.jsonl"
    plan.write_text(dry.out)
    arguments = ("apply", here.name, plan)
    assert (await snapstore(*arguments, environment=here.environment)).status == 2
    ended = await snapstore(*arguments, "--yes", environment=here.environment)
    assert ended.status == 0, ended.err
    assert await here.storage.list_snapshot_ids(location=LOCATION) == [*ids[-2:], *later]
    plan.write_text('{"type":"canary"}\n')
    ended = await snapstore(*arguments, "--yes", environment=here.environment)
    assert ended.status == 2
    assert "line 1 is no event" in ended.err
    assert "canary" not in ended.err


@pytest.mark.parametrize("what", ["ls", "show", "diff", "rewind", "du"])
async def test_what_is_not_there_is_said_in_one_line(here, snapstore, what):
    await here.storage.checkpoint(location=location_of("other"), snapshot=state(1))
    arguments = {
        "ls": ("chat-1",),
        "du": ("chat-1",),
        "show": ("chat-1",),
        "diff": ("chat-1", "agent/weather", new_snapshot_id()),
        "rewind": ("chat-1", "agent/weather", id_days_ago(1), "--yes"),
    }[what]
    ended = await snapstore(what, here.name, *arguments, environment=here.environment)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.count("\n") == 1
    assert "there is no" in ended.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ls", "s3:bucket/prefix"], "neither s3://bucket/prefix nor a directory"),
        (["ls", "https://example.org/x"], "neither s3://bucket/prefix nor a directory"),
        (["ls", ""], "a place is s3://bucket/prefix or a directory"),
        (["ls", "nowhere"], "there is no directory nowhere"),
        (["ls", "s3:///prefix"], "neither s3://bucket/prefix nor a directory"),
        (["ls", "s3://bucket/prefix//"], "begins or ends with '/'"),
        (["ls", ".", "Not-An-Id"], "session_id must be"),
        (["ls", ".", "s-1", "weather"], "scope must be"),
        (["ls", ".", "--limit", "0"], "--limit"),
        (["ls", ".", "--cursor", "nonsense"], "cursor"),
        (["ls", ".", "s-1", "agent/a", "--cursor", "x"], "UUIDv7"),
        (["ls", ".", "s-1", "agent/a", "--since", "yesterday"], "is no time"),
        (["ls", ".", "s-1", "agent/a", "--since", "1969-12-31"], "before 1970"),
        (["ls", ".", "s-1", "agent/a", "--since", "2026-02-01", "--until", "2026-01-01"], "since"),
        (["show", ".", "s-1", "--snapshot", "x", "--as-of", "2026-01-01"], "exclude each other"),
        (["show", ".", "s-1", "agent/a", "--snapshot", "x"], "UUIDv7"),
        (["rewind", ".", "s-1", "agent/a", "x", "--yes"], "UUIDv7"),
        (["prune", ".", "--yes"], "keeps nothing"),
        (["prune", ".", "--keep-last", "-1", "--yes"], "--keep-last"),
        (["prune", ".", "--keep-within", "1y", "--yes"], "is no duration"),
        (["prune", ".", "--keep-within", "0d", "--yes"], "is no duration"),
        (["prune", ".", "--keep-within", "999999d", "--yes"], "goes back further"),
        (["prune", ".", "--keep-within", "999999999w", "--yes"], "goes back further"),
        (["prune-sessions", ".", "--idle-for", "999999d", "--yes"], "goes back further"),
        (["show", ".", "s-1", "agent/a", "--as-of", "9999-12-31T23:59:59-12:00"], "no time in UTC"),
        (["prune", ".", "--keep-last", "1", "--max-requests-per-second", "0"], "--max-requests"),
        (["prune", ".", "--keep-last", "1", "--max-requests-per-second", "inf"], "no number"),
        (["copy", ".", "x", "--dry-run", "--max-requests-per-second", "nan"], "no number"),
        (["verify", ".", "--max-requests-per-second", "inf"], "no number"),
        (["apply", ".", "-", "--max-requests-per-second", "nan"], "no number"),
        (["prune-sessions", "."], "--idle-for"),
        (["prune-sessions", ".", "--idle-for", "-3d", "--yes"], "--idle-for"),
        (["apply", ".", "no-such-file", "--yes"], "no-such-file"),
        (["nonsense"], "No such command"),
    ],
)
async def test_wrong_arguments_end_with_status_2(
    arguments, words, tmp_path, monkeypatch, snapstore
):
    monkeypatch.chdir(tmp_path)
    ended = await snapstore(*arguments)
    assert (ended.status, ended.out) == (2, "")
    assert words in ended.err
    assert list(tmp_path.iterdir()) == []


async def test_a_directory_is_checked(tmp_path, snapstore):
    ended = await snapstore("check", tmp_path)
    assert ended.status == 0
    assert ended.out.startswith("ok       write ")
    ended = await snapstore("check", tmp_path, "--json")
    assert {line["status"] for line in lines(ended)} <= {"ok", "warning"}


async def test_a_server_that_is_down_is_said_in_one_line(snapstore):
    environment = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    ended = await snapstore(
        *("ls", "s3://bucket/prefix", "--endpoint-url", "http://127.0.0.1:9", "--region", "x"),
        environment=environment,
    )
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith("snapstore ls: ")
    assert ended.err.count("\n") == 1


async def test_a_session_is_erased_with_a_receipt(here, snapstore, tmp_path):
    await write_chat(here.storage)
    await write_chat(here.storage, "chat-10")
    arguments = ("erase", here.name, "chat-1")
    assert (await snapstore(*arguments, environment=here.environment)).status == 2
    dry = await snapstore(*arguments, "--dry-run", "--json", environment=here.environment)
    assert (dry.status, {line["result"] for line in lines(dry)}) == (0, {"planned"})
    assert await here.storage.load_snapshot(location=LOCATION) is not None
    receipt = tmp_path / "receipt.json"
    ended = await snapstore(*arguments, "--yes", "--receipt", receipt, environment=here.environment)
    assert ended.status == 0, ended.err
    assert len(ended.out.splitlines()) == 5
    assert ended.err.endswith("nothing is left\n")
    written = json.loads(receipt.read_text())
    assert (written["objects"], written["nothing_left"]) == (5, True)
    assert [found async for found in here.storage.iter_sessions()] == ["chat-10"]


async def test_a_namespace_is_erased_but_never_a_bucket(here, snapstore):
    await write_chat(here.storage.namespace("user-7"))
    await write_chat(here.storage.namespace("user-8"))
    if here.name.startswith("s3:"):
        name, bucket = f"{here.name}user-7", "/".join(here.name.split("/")[:3])
        refused = await snapstore("erase-all", bucket, "--yes", environment=here.environment)
    else:
        name = f"{here.name}/user-7"
        refused = await snapstore("erase-all", name, "--yes", environment=here.environment)
    assert (refused.status, refused.out) == (2, "")
    words = "a storage with a prefix" if here.name.startswith("s3:") else "removed with rm -r"
    assert words in refused.err
    if here.name.startswith("s3:"):
        ended = await snapstore("erase-all", name, "--yes", environment=here.environment)
        assert ended.status == 0, ended.err
        left = here.storage.namespace("user-7").iter_sessions()
        assert [found async for found in left] == []
    left = here.storage.namespace("user-8").iter_sessions()
    assert [found async for found in left] == ["chat-1"]


async def test_snapshots_are_archived_shown_and_brought_back(here, snapstore):
    async def run(*arguments):
        return await snapstore(
            *arguments[:1], here.name, *arguments[1:], environment=here.environment
        )

    ids = await write_chat(here.storage)
    ended = await run("archive", "--keep-last", 1, "--dry-run")
    assert [row[0] for row in rows(ended)] == ["planned"] * 3
    assert ended.err.startswith("3 snapshots to be archived (")
    assert await here.storage.list_snapshot_ids(location=LOCATION) == ids

    ended = await run("archive", "--keep-last", 1, "--yes", "--json")
    assert {(line["result"], line["type"]) for line in lines(ended)} == {("archived", "archive")}
    assert "in 1 pack of" in ended.err
    assert await here.storage.list_snapshot_ids(location=LOCATION) == ids[3:]

    where = "chat-1", "agent/weather"
    ended = await run("ls", *where, "--archived")
    assert [row[0] for row in rows(ended)[1:]] == ids[2::-1]
    ended = await run(
        "ls", *where, "--archived", "--oldest-first", "--limit", 1, "--cursor", ids[0]
    )
    assert [row[0] for row in rows(ended)[1:]] == [ids[1]]
    assert (await run("ls", "chat-1", "--archived")).status == 2
    ended = await run("show", *where, "--snapshot", ids[1])
    assert ended.out.count("user:") == 1
    assert f"id {ids[1]}" in ended.out
    ended = await run("show", *where, "--snapshot", ids[1], "--json")
    assert (ended.status, "is archived" in ended.err) == (1, True)
    ended = await run("show", *where, "--as-of", NOW.isoformat())
    assert ended.status == 1
    ended = await run("diff", *where, ids[0], ids[2], "--json")
    assert (
        {line["what"] for line in lines(ended)} == {"message", "state"} if ended.status == 0 else 1
    )

    assert (await run("prune-archive", "--yes")).err.startswith("0 packs of 0 snapshots deleted, 1")
    ended = await run("unarchive", "--yes")
    assert [row[0] for row in rows(ended)] == ["restored"] * 3
    assert await here.storage.list_snapshot_ids(location=LOCATION) == ids
    ended = await run("prune-archive", "--keep-last", 9, "--yes")
    assert [row[0] for row in rows(ended)] == ["deleted"]
    assert (await run("archive", "--yes")).status == 2


async def test_a_missing_extra_is_named_in_one_line(here, snapstore, monkeypatch):
    for name in ("compression", "compression.zstd", "backports", "backports.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    ended = await snapstore(
        *("archive", here.name, "--keep-last", 1, "--yes"), environment=here.environment
    )
    assert ended.status == 1
    assert ended.err.startswith("snapstore archive: ")
    assert ended.err.count("\n") == 1
    assert "snapstore[archive]" in ended.err
