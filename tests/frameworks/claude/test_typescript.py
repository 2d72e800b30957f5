"""Transcripts exchanged with an adapter in JavaScript, on Node and AWS's own client.

`SNAPSTORE_CLAUDE_ADAPTER` may name another one: the SDK's reference adapter for TypeScript.
"""

import json
import os
import select
import subprocess
from pathlib import Path

import pytest

from snapstore.integrations.claude import SnapstoreSessionStore
from snapstore.stores import S3ObjectStore
from transcripts import KEY, PROJECT, SUBAGENT, entry, without_uuid

ANSWER_WITHIN = 60.0
ENTRIES = [
    entry(1, text="Grüezi 🌧️\n\u2028\u2029", half="\ud83d", nested={"a": [1.5, None, True, {}]}),
    without_uuid(2, empty="", zero=0, large=2**53 - 1, small=1e-7),
]
NAMES = {"project_key": "projectKey", "session_id": "sessionId", "subpath": "subpath"}


class Theirs:
    """A store of the adapter in JavaScript."""

    def __init__(self, process, bucket, prefix):
        self.process = process
        self.place = {"bucket": bucket, "prefix": prefix}

    def call(self, call, *args):
        request = json.dumps({**self.place, "call": call, "args": args})
        self.process.stdin.write(request + "\n")
        self.process.stdin.flush()
        answers, _, _ = select.select([self.process.stdout], [], [], ANSWER_WITHIN)
        assert answers, f"there is no answer to {call}"
        answer = json.loads(self.process.stdout.readline())
        assert "error" not in answer, answer["error"]
        return answer["result"]


def theirs_of(key):
    return {NAMES[name]: value for name, value in key.items()}


@pytest.fixture(scope="module")
def node(s3_server):
    directory = Path(os.environ["SNAPSTORE_CLAUDE_NODE"])
    adapter = os.environ.get("SNAPSTORE_CLAUDE_ADAPTER", "adapter.mjs")
    process = subprocess.Popen(
        ["node", "sessions.mjs", adapter],
        cwd=directory,
        env=os.environ | s3_server.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process
        process.stdin.close()
        assert process.wait(ANSWER_WITHIN) == 0


@pytest.fixture
def theirs(node, bucket, prefix):
    return Theirs(node, bucket, prefix)


@pytest.fixture
async def ours(s3_server, bucket, prefix):
    objects = S3ObjectStore(bucket, **s3_server.storage_options)
    async with SnapstoreSessionStore(objects, prefix=prefix) as store:
        yield store


@pytest.mark.parametrize("key", [KEY, SUBAGENT], ids=["main", "subagent"])
async def test_they_read_what_we_write(ours, theirs, key):
    await ours.append(key, ENTRIES)
    await ours.append(key, [entry(3)])
    assert theirs.call("load", theirs_of(key)) == [*ENTRIES, entry(3)]
    if key is SUBAGENT:
        assert theirs.call("load", theirs_of(KEY)) is None
        assert theirs.call("listSubkeys", theirs_of(KEY)) == [SUBAGENT["subpath"]]
        assert theirs.call("listSessions", PROJECT) == []
    else:
        [session] = await ours.list_sessions(PROJECT)
        assert theirs.call("listSessions", PROJECT) == [
            {"sessionId": session["session_id"], "mtime": session["mtime"]}
        ]


@pytest.mark.parametrize("key", [KEY, SUBAGENT], ids=["main", "subagent"])
async def test_we_read_what_they_write(ours, theirs, key):
    assert await ours.load(key) is None
    theirs.call("append", theirs_of(key), ENTRIES)
    theirs.call("append", theirs_of(key), [entry(3)])
    assert await ours.load(key) == [*ENTRIES, entry(3)]
    [session] = theirs.call("listSessions", PROJECT) or [None]
    if key is SUBAGENT:
        assert session is None
        assert await ours.list_subkeys(KEY) == [SUBAGENT["subpath"]]
    else:
        assert await ours.list_sessions(PROJECT) == [
            {"session_id": session["sessionId"], "mtime": session["mtime"]}
        ]


@pytest.mark.parametrize("key", [KEY, SUBAGENT], ids=["main", "subagent"])
async def test_writers_take_turns(ours, theirs, key):
    for number in range(0, 10, 2):
        await ours.append(key, [without_uuid(number)])
        # In this process the next one is seen by loading, as the SDK does to resume.
        theirs.call("append", theirs_of(key), [without_uuid(number + 1)])
        await ours.load(key)
    assert theirs.call("load", theirs_of(key)) == await ours.load(key)
    assert sorted(found["n"] for found in await ours.load(key)) == list(range(10))


@pytest.mark.parametrize("key", [KEY, SUBAGENT], ids=["main", "subagent"])
async def test_they_read_what_we_have_compacted_and_go_on(ours, theirs, key):
    for number in range(0, 30, 2):
        await ours.append(key, [entry(number)])
        theirs.call("append", theirs_of(key), [without_uuid(number + 1)])
        await ours.load(key)
    whole = await ours.load(key)
    assert len(whole) == 30
    assert await ours.compact(key, grace=0) == (30, 1)
    assert theirs.call("load", theirs_of(key)) == whole
    theirs.call("append", theirs_of(key), [entry("next")])
    assert await ours.load(key) == [*whole, entry("next")]


async def test_what_lies_beside_the_transcripts_is_no_session_for_them(ours, theirs):
    await ours.append(KEY, ENTRIES)
    await ours.append(KEY, [entry(3)])
    await ours.compact(KEY, grace=0)
    assert len(theirs.call("listSessions", PROJECT)) == 1
    assert theirs.call("listSubkeys", theirs_of(KEY)) == []
    assert theirs.call("listSessions", "snapstore") == []


async def test_each_deletes_what_the_other_has_written(ours, theirs):
    for key in (KEY, SUBAGENT):
        await ours.append(key, ENTRIES)
        theirs.call("append", theirs_of(key), [entry(3)])
    theirs.call("delete", theirs_of(KEY))
    assert await ours.load(KEY) is None
    assert await ours.load(SUBAGENT) is None
    for key in (KEY, SUBAGENT):
        theirs.call("append", theirs_of(key), ENTRIES)
    await ours.delete(KEY)
    assert theirs.call("load", theirs_of(KEY)) is None
    assert theirs.call("load", theirs_of(SUBAGENT)) is None


@pytest.mark.parametrize("text", ["a/b", "a b", "ü/😀", "%2F", "-_.!~*'()", "a+b&c=d?e"])
async def test_odd_ids_are_the_same_for_both(ours, theirs, text):
    key = {"project_key": text, "session_id": text}
    await ours.append(key, [entry(1)])
    theirs.call("append", theirs_of({**key, "subpath": text}), [entry(2)])
    assert theirs.call("load", theirs_of(key)) == [entry(1)]
    assert await ours.load({**key, "subpath": text}) == [entry(2)]
    assert [found["sessionId"] for found in theirs.call("listSessions", text)] == [text]
    assert await ours.list_subkeys(key) == [text]
